use securectr_image::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t = std::time::Instant::now();
    let store = Store::open(a[1].as_ref()).unwrap();
    let mut last = None;
    let mut p = |x| last = Some(x);
    let r = if a[2].starts_with('/') {
        store.pack_directory(a[2].as_ref(), &mut p)
    } else {
        store.rootfs(&a[2].parse().unwrap(), &mut p)
    };
    match r {
        Ok(i) => {
            eprintln!("{:?} {:?}", t.elapsed(), last);
            eprintln!("{:?} {:?}", i.config, i.resolve_user(a.get(4).map_or("", |x| x)));
            if let Some(o) = a.get(3) {
                std::io::copy(&mut &i.rootfs, &mut std::fs::File::create(o).unwrap()).unwrap();
            }
        }
        Err(e) => {
            let mut s = format!("{e}");
            let mut c: &dyn std::error::Error = &e;
            while let Some(n) = c.source() {
                s += &format!(": {n}");
                c = n;
            }
            eprintln!("error: {s}");
            std::process::exit(1)
        }
    }
}
