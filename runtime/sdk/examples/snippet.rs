//! Runs a snippet of code that nobody has looked at, and prints what came of it.
//!
//! `cargo run -p securectr-sdk --example snippet -- IMAGE 'echo hello; date >file'`

use std::{env, error::Error, time::Duration};

use securectr_sdk::Sandbox;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let (Some(image), Some(code)) = (words.next(), words.next()) else {
        return Err("usage: snippet IMAGE CODE".into());
    };
    let mut sandbox = Sandbox::new(image).file("snippet.sh", code).time(Duration::from_secs(20));
    sandbox = sandbox.memory_bytes(128 << 20).output_bytes(64 << 10).processes(64);
    if let Some(program) = env::var_os("SECURECTR") {
        sandbox = sandbox.program(program);
    }
    if let Some(store) = env::var_os("SECURECTR_STORE") {
        sandbox = sandbox.store(store);
    }
    let done = sandbox.run(["sh", "snippet.sh"])?;
    println!(
        "ended with {} by {:?}{}",
        done.code,
        done.cause,
        done.message.map(|m| format!(": {m}")).unwrap_or_default()
    );
    println!("stdout: {}", String::from_utf8_lossy(&done.stdout).escape_debug());
    println!("stderr: {}", String::from_utf8_lossy(&done.stderr).escape_debug());
    for entry in std::fs::read_dir(done.files.path())? {
        let name = entry?.file_name();
        if let Ok(content) = done.files.read(&name, 1 << 20) {
            println!("file {}: {}", name.to_string_lossy(), String::from_utf8_lossy(&content).escape_debug());
        }
    }
    Ok(())
}
