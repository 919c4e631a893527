//! Messages and stubs from the `.proto` files, without protoc.

use prost::Message as _;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=strongroom");
    println!("cargo:rerun-if-changed=kubernetes");
    let descriptors = protox::compile(FILES, ["."])?;
    let out: PathBuf = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?.into();
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .codec_path("crate::codec::LeanCodec")
        // these hold secrets and print as their names (src/lib.rs)
        .skip_debug(SECRETS)
        .compile_fds(descriptors)?;
    // others' contracts are none of what reflection tells
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .skip_debug([".v2.EncryptRequest", ".v2.DecryptResponse"])
        .compile_fds(protox::compile(["kubernetes/kms/v2/kms.proto"], ["."])?)?;
    Ok(())
}

const FILES: [&str; 4] = [
    "strongroom/kms/v1/keys.proto",
    "strongroom/kms/v1/crypto.proto",
    "strongroom/identity/v1/identity.proto",
    "strongroom/operator/v1/operator.proto",
];

const SECRETS: [&str; 9] = [
    ".strongroom.kms.v1.GenerateDataKeyResponse",
    ".strongroom.kms.v1.EncryptRequest",
    ".strongroom.kms.v1.DecryptResponse",
    ".strongroom.kms.v1.GenerateMacRequest",
    ".strongroom.kms.v1.VerifyMacRequest",
    ".strongroom.kms.v1.SignRequest",
    ".strongroom.kms.v1.VerifyRequest",
    ".strongroom.kms.v1.GenerateRandomResponse",
    ".strongroom.identity.v1.CreateTokenResponse",
];
