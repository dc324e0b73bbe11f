//! Generated types and services.
//!
//! - [`earshot::v1`]: the protocol. `Cluster` faces workers, `Sweeps` faces users, `Blobs` serves both.
//! - [`onnx`]: the subset of the ONNX schema that the exporter writes.
//!
//! The `.proto` files carry the documentation; `proto/README.md` lists the fields that commands print.

// Generated code, documented in the .proto files; of an answer that holds a whole job only one is alive at a time.
#![allow(missing_docs, clippy::pedantic, clippy::indexing_slicing, clippy::large_enum_variant)]

/// The protocol's packages.
pub mod earshot {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("earshot.v1");

        /// The encoded descriptor set, for the reflection service.
        pub const FILE_DESCRIPTOR_SET: &[u8] =
            include_bytes!(concat!(env!("OUT_DIR"), "/earshot_descriptor.bin"));

        /// What a worker states at join. A coordinator of another major refuses it; raise it when a message changes meaning.
        pub const PROTOCOL_VERSION: u32 = 7;
    }
}

/// The ONNX schema's subset.
pub mod onnx {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}
