//! A network's logits, without a bundle around it: for what is asked of networks that are not exported.

use earshot_common::{metrics::Confusion, model::AudioCnn};
use prost::Message;

use super::{ExportError, Features, graph, network::Network, session::Session};

/// Name in messages.
const NAME: &str = "the network";

/// A trained network, ready to be run.
pub struct Forward {
    session: Session,
    classes: usize,
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forward").field("classes", &self.classes).finish_non_exhaustive()
    }
}

impl Forward {
    /// Of this spec with a checkpoint's weights.
    ///
    /// # Errors
    /// The checkpoint is another spec's, or tract refuses the network.
    pub fn new(model: &AudioCnn, checkpoint: &[u8]) -> Result<Self, ExportError> {
        let network = Network::new(model, checkpoint)?;
        let cost = model.cost().map_err(ExportError::Model)?;
        let bytes = graph::float(&network, &Vec::new()).encode_to_vec();
        let session = Session::load(NAME, &bytes, cost.peak_ram_bytes, &[])?;
        Ok(Self { session, classes: network.classes })
    }

    /// Logits of these rows, row-major.
    ///
    /// # Errors
    /// tract fails.
    pub fn logits(&self, features: &Features, rows: &[u32]) -> Result<Vec<f32>, ExportError> {
        self.session.logits(features, rows)
    }

    /// Its predictions of these rows, counted.
    ///
    /// # Errors
    /// tract fails.
    pub fn confusion(&self, features: &Features, rows: &[u32]) -> Result<Confusion, ExportError> {
        let logits = self.logits(features, rows)?;
        Ok(Confusion::from_logits(self.classes, &logits, &features.labels_of(rows)))
    }
}
