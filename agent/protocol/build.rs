//! Generates the messages and the ttrpc service from `agent.proto`; needs no `protoc`.

use std::{env, fs, path::PathBuf};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=src/agent.proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    Codegen::new()
        .out_dir(&out)
        .input("src/agent.proto")
        .include("src")
        .rust_protobuf()
        .customize(Customize { async_all: true, ..Default::default() })
        .rust_protobuf_customize(ProtobufCustomize::default())
        .run()?;
    // The generators' own mod.rs begins with an inner attribute, which `include!` does not take.
    fs::write(out.join("mod.rs"), "pub mod agent;\npub mod agent_ttrpc;\n")
}
