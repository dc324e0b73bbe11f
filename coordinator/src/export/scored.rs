//! How a trial was quantised when it was scored: an export of it keeps to that, so that the leaderboard's number is the file's.

use earshot_common::{
    int8::Range,
    model::AudioCnn,
    tensors::{self, INT8_LOGITS, INT8_RANGES, Tensor, TensorsError},
};

use super::{ExportError, choice::Way, network::Network};

/// How reports call it.
const NAME: &str = "the worker's, that scored it";

/// A worker's quantisation of the weights that are exported.
pub(super) struct Quantising {
    ranges: Vec<Range>,
    /// Its logits, one row for each validation row.
    logits: Vec<f32>,
}

impl Quantising {
    /// Out of a logits blob of so many validation rows; none where the worker was not asked for it.
    ///
    /// # Errors
    /// It is of another model or of other rows.
    pub(super) fn recorded(blob: &[u8], rows: usize, model: &AudioCnn) -> Result<Option<Self>, ExportError> {
        let mut tensors = tensors::decode(blob).map_err(ExportError::Recorded)?;
        let (Some(ranges), Some(logits)) = (tensors.remove(INT8_RANGES), tensors.remove(INT8_LOGITS)) else {
            return Ok(None);
        };
        let scales = model.scales().map_err(ExportError::Model)?;
        let ends = shaped(INT8_RANGES, ranges, [scales, 2])?;
        let logits = shaped(INT8_LOGITS, logits, [rows, model.classes as usize])?;
        let ranges = ends.as_chunks::<2>().0.iter().map(|&[min, max]| Range { min, max }).collect();
        Ok(Some(Self { ranges, logits }))
    }

    /// As a way to quantise its network.
    pub(super) fn way<'a>(&'a self, network: &'a Network) -> Way<'a> {
        Way {
            name: NAME,
            network,
            ranges: self.ranges.clone(),
            recorded: Some(&self.logits),
            is_aware: false,
            metadata: vec![("earshot.calibration", "that of the worker that scored the trial".to_owned())],
        }
    }
}

fn shaped(name: &str, tensor: Tensor, expected: [usize; 2]) -> Result<Vec<f32>, ExportError> {
    if tensor.shape == expected {
        return Ok(tensor.values);
    }
    let (name, expected, found) = (name.to_owned(), expected.to_vec(), tensor.shape);
    Err(ExportError::Recorded(TensorsError::Shape { name, expected, found }))
}
