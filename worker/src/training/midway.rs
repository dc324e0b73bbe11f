//! What a run has come to after some epoch, as a blob: another attempt goes on from there, bit for bit.
//!
//! Generators are not in it. Everything random is drawn from the run's seed in an order that does not depend on the weights,
//! so an attempt that goes on draws the finished epochs' numbers once more, which takes a small part of training's time.
//!
//! | tensor | what |
//! |---|---|
//! | `network.<name>` | weights and running statistics, by a checkpoint's names |
//! | `mean.<name>`, `square.<name>` | moving means of the optimiser, by the trained tensor's name |
//! | `best.<name>`, `best` | the best epoch's weights; its logits of the validation rows |
//!
//! The file's note is JSON: `version`, `epoch` (the last one finished), `best` (the best epoch's metrics).

use earshot_common::{
    job::Epoch,
    tensors::{self, Tensor, Tensors, TensorsError},
};
use serde::{Deserialize, Serialize};

use super::best::Best;

/// Raised when the tensors or their meaning change, or what is drawn from the seed.
const VERSION: u32 = 2;

/// A run after some epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Midway {
    /// The last epoch that is over.
    pub epoch: u32,
    /// The network's weights.
    pub network: Tensors,
    /// Of each trained tensor: moving means of its gradients, and of their squares.
    pub moments: [Tensors; 2],
    /// The best epoch until then.
    pub best: Best,
}

/// Why bytes are not a run midway.
#[derive(Debug, thiserror::Error)]
pub enum MidwayError {
    /// Not the tensors that are expected.
    #[error(transparent)]
    Tensors(#[from] TensorsError),
    /// Without its note, or with one that cannot be read.
    #[error("its note cannot be read")]
    Note(#[source] Option<serde_json::Error>),
    /// Of another version of this worker.
    #[error("it is of version {0}, this worker goes on from version {VERSION}")]
    Version(u32),
    /// A tensor is missing.
    #[error("tensor {0:?} is missing")]
    Missing(&'static str),
}

#[derive(Serialize, Deserialize)]
struct Note {
    version: u32,
    epoch: u32,
    best: Epoch,
}

impl Midway {
    /// As bytes; the same run gives the same.
    ///
    /// # Errors
    /// A tensor's values do not fill its shape.
    pub fn encode(self) -> Result<Vec<u8>, MidwayError> {
        let Self { epoch, network, moments, best } = self;
        let note = Note { version: VERSION, epoch, best: best.epoch };
        let note = serde_json::to_string(&note).map_err(|error| MidwayError::Note(Some(error)))?;
        let named = |prefix: &'static str, tensors: Tensors| {
            tensors.into_iter().map(move |(name, tensor)| (format!("{prefix}.{name}"), tensor))
        };
        let [means, squares] = moments;
        let mut tensors: Tensors = named("network", network)
            .chain(named("mean", means))
            .chain(named("square", squares))
            .chain(named("best", best.weights))
            .collect();
        let shape = vec![best.logits.len()];
        tensors.insert("best".to_owned(), Tensor { shape, values: best.logits });
        Ok(tensors::encode_with_note(&tensors, &note)?)
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`MidwayError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MidwayError> {
        let (mut tensors, note) = tensors::decode_with_note(bytes)?;
        let note = note.ok_or(MidwayError::Note(None))?;
        let note: Note = serde_json::from_str(&note).map_err(|error| MidwayError::Note(Some(error)))?;
        if note.version != VERSION {
            return Err(MidwayError::Version(note.version));
        }
        let logits = tensors.remove("best").ok_or(MidwayError::Missing("best"))?.values;
        let [mut network, mut weights, mut means, mut squares] = [const { Tensors::new() }; 4];
        for (name, tensor) in tensors {
            let (part, name) = name.split_once('.').unwrap_or_default();
            let to = match part {
                "network" => &mut network,
                "best" => &mut weights,
                "mean" => &mut means,
                "square" => &mut squares,
                _ => continue,
            };
            to.insert(name.to_owned(), tensor);
        }
        let moments = [means, squares];
        let best = Best { epoch: note.best, weights, logits };
        Ok(Self { epoch: note.epoch, network, moments, best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn midway() -> Midway {
        let tensor = |value: f32| Tensor { shape: vec![2, 1], values: vec![value, -value] };
        let weights = |value| Tensors::from([("blocks.0.weight".to_owned(), tensor(value))]);
        let epoch = Epoch {
            epoch: 3,
            train_loss: 0.1 + 0.2,
            loss: 0.3,
            accuracy: 1.0 / 3.0,
            macro_f1: 0.0,
            int8_accuracy: None,
        };
        let best = Best { epoch, weights: weights(0.5), logits: vec![1.0, 2.0] };
        Midway { epoch: 7, network: weights(0.25), moments: [weights(1e-30), weights(3.0)], best }
    }

    #[test]
    fn it_comes_back_whole() {
        let bytes = midway().encode().unwrap();
        assert_eq!(Midway::decode(&bytes).unwrap(), midway());
        assert_eq!(midway().encode().unwrap(), bytes);
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(matches!(Midway::decode(b"nonsense"), Err(MidwayError::Tensors(_))));
        let plain = tensors::encode(&Tensors::new()).unwrap();
        assert!(matches!(Midway::decode(&plain), Err(MidwayError::Note(None))));
        let note =
            r#"{"version":3,"epoch":1,"best":{"epoch":1,"train_loss":1,"loss":1,"accuracy":0,"macro_f1":0}}"#;
        let newer = tensors::encode_with_note(&Tensors::new(), note).unwrap();
        assert!(matches!(Midway::decode(&newer), Err(MidwayError::Version(3))));
        let note = note.replace(":3,", ":2,");
        let empty = tensors::encode_with_note(&Tensors::new(), &note).unwrap();
        assert!(matches!(Midway::decode(&empty), Err(MidwayError::Missing("best"))));
    }
}
