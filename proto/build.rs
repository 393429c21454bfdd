//! Generates the types, the canonical JSON mapping and the gRPC code, without protoc.

use std::error::Error;
use std::path::PathBuf;

use prost_build::Config;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=mecapy");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let files = protox::compile(["mecapy/v1/events.proto", "mecapy/v1/gateway.proto"], ["."])?;
    let descriptors = prost::Message::encode_to_vec(&files);
    std::fs::write(out.join("descriptors.bin"), &descriptors)?;

    let mut config = Config::new();
    config.compile_well_known_types().extern_path(".google.protobuf", "::pbjson_types");
    config.enable_type_names();
    tonic_prost_build::configure().compile_fds_with_config(files, config)?;

    pbjson_build::Builder::new()
        .register_descriptors(&descriptors)?
        .ignore_unknown_fields()
        .build(&[".mecapy.v1"])?;
    Ok(())
}
