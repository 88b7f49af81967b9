//! Generates the Rust types of `proto/` with compilers written in Rust: no `protoc` is needed.
//!
//! Nothing is generated without the feature `client`, and then none of the compilers is built either. Without `vault` there is no
//! server.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "client")]
    proto::generate()?;
    Ok(())
}

#[cfg(feature = "client")]
mod proto {
    use std::collections::BTreeSet;
    use std::error::Error;
    use std::path::PathBuf;

    use prost_types::{DescriptorProto, FileDescriptorSet};

    /// The files with services; what they import comes with them.
    const ROOTS: [&str; 2] = ["cloakroom/v1/token_service.proto", "cloakroom/v1/audit_service.proto"];

    /// Fields that hold a value, a token, or what must not be logged. A message with one of them, and every message that
    /// can contain such a message, gets no `Debug`.
    const UNPRINTABLE_FIELDS: [&str; 5] = ["value", "token", "tokens", "request_id", "nonce"];

    /// Writes the generated module and the descriptors that server reflection serves into `OUT_DIR`.
    pub fn generate() -> Result<(), Box<dyn Error>> {
        println!("cargo::rerun-if-changed=proto");
        let mut compiler = protox::Compiler::new(["proto"])?;
        compiler.include_imports(true).open_files(ROOTS)?;
        let out = PathBuf::from(std::env::var("OUT_DIR")?);
        std::fs::write(out.join("cloakroom_descriptor.bin"), compiler.encode_file_descriptor_set())?;

        let files = compiler.include_source_info(true).file_descriptor_set();
        tonic_prost_build::configure()
            .emit_rerun_if_changed(false)
            .build_server(cfg!(feature = "vault"))
            // Connections are made by `tls` and `client`, never by the library.
            .build_transport(false)
            .codec_path("crate::proto::codec::Frugal")
            .extern_path(".google.rpc.Status", "::tonic_types::Status")
            .skip_debug(unprintable_messages(&files))
            .compile_fds(files)?;
        Ok(())
    }

    /// The full names of all messages that can hold something unprintable, directly or through another message.
    fn unprintable_messages(files: &FileDescriptorSet) -> BTreeSet<String> {
        let messages: Vec<(String, &DescriptorProto)> = files
            .file
            .iter()
            .filter(|file| file.package() == "cloakroom.v1")
            .flat_map(|file| {
                file.message_type.iter().map(|message| (format!(".cloakroom.v1.{}", message.name()), message))
            })
            .collect();
        let mut found = BTreeSet::new();
        loop {
            let more: Vec<String> = messages
                .iter()
                .filter(|(name, message)| !found.contains(name) && is_unprintable(message, &found))
                .map(|(name, _)| name.clone())
                .collect();
            if more.is_empty() {
                return found;
            }
            found.extend(more);
        }
    }

    fn is_unprintable(message: &DescriptorProto, known: &BTreeSet<String>) -> bool {
        assert!(
            message.nested_type.is_empty(),
            "{}: nested messages are not looked into; declare it at the top",
            message.name()
        );
        message
            .field
            .iter()
            .any(|field| UNPRINTABLE_FIELDS.contains(&field.name()) || known.contains(field.type_name()))
    }
}
