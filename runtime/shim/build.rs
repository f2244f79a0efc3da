//! Generates the messages of `cri/pod.proto`; needs no `protoc`.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=src/cri/pod.proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    protobuf_codegen::Codegen::new()
        .pure()
        .out_dir(&out)
        .include("src/cri")
        .input("src/cri/pod.proto")
        .run()?;
    // The generator's own mod.rs begins with an inner attribute, which `include!` does not take.
    fs::write(out.join("mod.rs"), "pub mod pod;\n")?;
    Ok(())
}
