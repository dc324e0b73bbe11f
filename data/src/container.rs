//! What shards and splits share: a safetensors file of named tensors and one metadata string.

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};
use serde::Deserialize;

/// The only metadata key; one key, because safetensors writes several in random order.
const METADATA_KEY: &str = "earshot";

/// Headers are a few hundred bytes; a larger one is not ours.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Why bytes are not such a file.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Not safetensors at all, cut short, or followed by something.
    #[error("not a whole safetensors file")]
    Format(#[source] SafeTensorError),
    /// A header larger than any this crate writes.
    #[error("the header is longer than {HEADER_BYTES_MAX} bytes")]
    HeaderTooLong,
    /// No such tensor, or another one beside those expected.
    #[error("tensors must be {expected}, got {found}")]
    Tensors {
        /// Names expected.
        expected: String,
        /// Names found.
        found: String,
    },
    /// A tensor of another type or rank.
    #[error("tensor {name:?} must be {expected:?} of rank {rank}, got {found:?} of shape {shape:?}")]
    Kind {
        /// The tensor.
        name: &'static str,
        /// Element type expected.
        expected: Dtype,
        /// Number of dimensions expected.
        rank: usize,
        /// Element type found.
        found: Dtype,
        /// Shape found.
        shape: Vec<usize>,
    },
}

impl From<SafeTensorError> for ContainerError {
    fn from(error: SafeTensorError) -> Self {
        Self::Format(error)
    }
}

/// One tensor to write: name, type, shape and little-endian bytes.
pub(crate) struct Part<'a> {
    pub(crate) name: &'static str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: &'a [u8],
}

/// Encodes tensors, and a metadata string if there is one; the same arguments give the same bytes.
pub(crate) fn encode(parts: &[Part<'_>], metadata: Option<String>) -> Result<Vec<u8>, ContainerError> {
    let views = parts
        .iter()
        .map(|part| Ok((part.name, TensorView::new(part.dtype, part.shape.clone(), part.data)?)))
        .collect::<Result<Vec<_>, SafeTensorError>>()?;
    let metadata = metadata.map(|text| HashMap::from([(METADATA_KEY.to_owned(), text)]));
    Ok(safetensors::serialize(views, metadata)?)
}

/// A decoded file; tensors borrow from its bytes.
pub(crate) struct Container<'a> {
    tensors: SafeTensors<'a>,
    pub(crate) metadata: Option<String>,
}

/// The part of a header that is checked before the safetensors crate sees it.
#[derive(Deserialize)]
struct HeaderEntry {
    data_offsets: Option<(usize, usize)>,
}

impl<'a> Container<'a> {
    /// Opens a file; what it holds is for [`Container::expect`] to check.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, ContainerError> {
        check_offsets(bytes)?;
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().as_ref().and_then(|map| map.get(METADATA_KEY)).cloned();
        Ok(Self { tensors: SafeTensors::deserialize(bytes)?, metadata })
    }

    /// Refuses a file that does not hold exactly the tensors `names`.
    pub(crate) fn expect(&self, names: &[&'static str]) -> Result<(), ContainerError> {
        let mut found = self.tensors.names();
        found.sort_unstable();
        let mut expected = names.to_vec();
        expected.sort_unstable();
        if found != expected {
            let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
            return Err(ContainerError::Tensors { expected, found });
        }
        Ok(())
    }

    /// Shape and little-endian bytes of a tensor of that type and rank.
    pub(crate) fn tensor<const RANK: usize>(
        &self,
        name: &'static str,
        dtype: Dtype,
    ) -> Result<([usize; RANK], &'a [u8]), ContainerError> {
        let view = self.tensors.tensor(name)?;
        match <[usize; RANK]>::try_from(view.shape()) {
            Ok(shape) if view.dtype() == dtype => Ok((shape, view.data())),
            _ => Err(ContainerError::Kind {
                name,
                expected: dtype,
                rank: RANK,
                found: view.dtype(),
                shape: view.shape().to_vec(),
            }),
        }
    }
}

/// Refuses a header whose offsets reach beyond the file: safetensors adds them up unchecked, which would overflow.
fn check_offsets(bytes: &[u8]) -> Result<(), ContainerError> {
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or(SafeTensorError::HeaderTooSmall)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| SafeTensorError::HeaderTooLarge)?;
    if length > HEADER_BYTES_MAX {
        return Err(ContainerError::HeaderTooLong);
    }
    let header = rest.get(..length).ok_or(SafeTensorError::InvalidHeaderLength)?;
    let entries: HashMap<String, HeaderEntry> =
        serde_json::from_slice(header).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
    let inside = |entry: &HeaderEntry| entry.data_offsets.is_none_or(|(_, end)| end <= bytes.len());
    if entries.values().all(inside) { Ok(()) } else { Err(SafeTensorError::MetadataIncompleteBuffer.into()) }
}

/// Little-endian bytes of 16-bit numbers.
pub(crate) fn bytes_of_u16(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Little-endian bytes of 32-bit numbers.
pub(crate) fn bytes_of_u32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Little-endian bytes of 32-bit floats.
pub(crate) fn bytes_of_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// 16-bit numbers of little-endian bytes.
pub(crate) fn u16_of_bytes(bytes: &[u8]) -> Vec<u16> {
    bytes.as_chunks().0.iter().map(|chunk| u16::from_le_bytes(*chunk)).collect()
}

/// 32-bit numbers of little-endian bytes.
pub(crate) fn u32_of_bytes(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect()
}

/// 32-bit floats of little-endian bytes.
pub(crate) fn f32_of_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_that_would_overflow_are_refused() {
        let end = usize::MAX;
        let header = format!(r#"{{"a":{{"dtype":"U8","shape":[{end}],"data_offsets":[0,{end}]}}}}"#);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        assert!(matches!(Container::open(&bytes), Err(ContainerError::Format(_))));
    }
}
