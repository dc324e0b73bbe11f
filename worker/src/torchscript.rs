//! A bundle's float model as TorchScript, for devices that run PyTorch.
//!
//! The exporter never links libtorch, so the worker, which does, writes this file: the network with the weights of the
//! bundle's `model.onnx`, where batch norm is folded in, as libtorch traces it. What was written is read again and held against
//! the bundle's golden logits before it gets its name.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use earshot_common::{
    ids::BlobId,
    job::Job,
    model::{AudioCnn, Block, input::inverse_dct},
    tensors::{Tensor as Values, Tensors},
};
use earshot_proto::onnx::ModelProto;
use prost::Message;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tch::{CModule, Device, Tensor};

use crate::network::{Mode, Network};

/// The bundle's list of files, and how it was trained.
const PROVENANCE_FILE: &str = "provenance.json";
/// The model whose weights are taken.
const FLOAT_FILE: &str = "model.onnx";
/// Clips with the features and logits they have.
const GOLDEN_FILE: &str = "golden/golden.json";
/// Where the model is written, unless another name is given.
pub const SCRIPT_FILE: &str = "model.pt";

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Written {
    /// The file.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Golden clips that it was held against.
    pub clips: usize,
    /// Largest difference of a logit from the golden ones, as a part of the clip's largest.
    pub difference: f64,
}

#[derive(Deserialize)]
struct Provenance {
    job: Job,
    files: BTreeMap<String, FileEntry>,
}

#[derive(Deserialize)]
struct FileEntry {
    blake3: BlobId,
}

#[derive(Deserialize)]
struct Golden {
    logits_tolerance: BTreeMap<String, f64>,
    clips: Vec<GoldenClip>,
}

#[derive(Deserialize)]
struct GoldenClip {
    features: String,
    logits: BTreeMap<String, String>,
}

/// Writes the float model of the bundle in `folder` to `out`.
///
/// # Errors
/// The folder is no bundle, a file of it is not what was exported, libtorch refuses, or what was written does not give the golden
/// logits; then nothing is left at `out`.
pub fn write(folder: &Path, out: &Path) -> anyhow::Result<Written> {
    let bundle = Bundle::open(folder)?;
    let module = trace(&bundle.provenance.job.model, &bundle.weights()?)?;
    let partial = out.with_extension("pt.partial");
    module.save(&partial).with_context(|| format!("{} cannot be written", partial.display()))?;
    let checked = CModule::load(&partial).map_err(Into::into).and_then(|module| bundle.check(&module));
    let checked = checked.and_then(|found| {
        fs::rename(&partial, out).with_context(|| format!("{} cannot be written", out.display()))?;
        Ok(found)
    });
    let (clips, difference) = checked.inspect_err(|_| drop(fs::remove_file(&partial)))?;
    Ok(Written { file: out.to_owned(), bytes: fs::metadata(out)?.len(), clips, difference })
}

/// A bundle's files, each held against its hash when it is read.
struct Bundle<'a> {
    folder: &'a Path,
    provenance: Provenance,
}

impl<'a> Bundle<'a> {
    fn open(folder: &'a Path) -> anyhow::Result<Self> {
        let path = folder.join(PROVENANCE_FILE);
        let bytes = fs::read(&path).with_context(|| {
            format!(
                "{} is no bundle: {PROVENANCE_FILE} cannot be read; coordinator export makes one",
                folder.display()
            )
        })?;
        Ok(Self { folder, provenance: parse(&path, &bytes)? })
    }

    fn read(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.folder.join(name);
        let entry = self.provenance.files.get(name);
        let entry = entry.with_context(|| format!("{PROVENANCE_FILE} lists no {name}"))?;
        let bytes = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        ensure!(
            BlobId::of(&bytes) == entry.blake3,
            "{} is not what was exported; export again",
            path.display()
        );
        Ok(bytes)
    }

    /// The weights of the float model, by a checkpoint's names.
    fn weights(&self) -> anyhow::Result<Tensors> {
        let model = ModelProto::decode(self.read(FLOAT_FILE)?.as_slice())
            .with_context(|| format!("{FLOAT_FILE} cannot be read"))?;
        let initializers = model.graph.map(|graph| graph.initializer).unwrap_or_default();
        let named = initializers.into_iter().map(|tensor| {
            let values = tensor.raw_data.chunks_exact(size_of::<f32>());
            let values = values.filter_map(|bytes| bytes.try_into().ok().map(f32::from_le_bytes)).collect();
            let shape = tensor.dims.iter().map(|&extent| extent as usize).collect();
            (tensor.name, Values { shape, values })
        });
        Ok(named.collect())
    }

    /// Golden clips, and the largest difference from their logits.
    fn check(&self, module: &CModule) -> anyhow::Result<(usize, f64)> {
        let golden: Golden = parse(&self.folder.join(GOLDEN_FILE), &self.read(GOLDEN_FILE)?)?;
        let tolerance = golden.logits_tolerance.get(FLOAT_FILE).copied().unwrap_or_default();
        let mut largest = 0.0_f64;
        for clip in &golden.clips {
            let logits = clip.logits.get(FLOAT_FILE);
            let logits = logits.with_context(|| format!("{GOLDEN_FILE} has no logits of {FLOAT_FILE}"))?;
            let [features, expected] = [&clip.features, logits].map(|name| self.array(name));
            let batch = features?.f_unsqueeze(0)?.f_unsqueeze(0)?;
            let found = module.forward_ts(&[batch])?.f_squeeze()?;
            let expected = expected?;
            ensure!(found.size() == expected.size(), "it gives logits of another shape");
            let scale = f64::try_from(expected.f_abs()?.f_max()?)?;
            let difference = f64::try_from(found.f_sub(&expected)?.f_abs()?.f_max()?)? / scale;
            // What is not a number is within no tolerance.
            ensure!(
                difference <= tolerance,
                "its logits differ from the golden ones by {difference:.1e} of their size"
            );
            largest = largest.max(difference);
        }
        ensure!(!golden.clips.is_empty(), "{GOLDEN_FILE} has no clips to hold it against");
        Ok((golden.clips.len(), largest))
    }

    /// A golden array, which must be what was exported.
    fn array(&self, name: &str) -> anyhow::Result<Tensor> {
        self.read(name)?;
        Ok(Tensor::read_npy(self.folder.join(name))?)
    }
}

/// The model as it is exported, from MFCCs `(batch, 1, n_mfcc, frames)` to logits `(batch, classes)`.
fn trace(model: &AudioCnn, weights: &Tensors) -> anyhow::Result<CModule> {
    let blocks = model.blocks.iter().map(|block| Block { batch_norm: false, ..*block });
    let folded = AudioCnn { blocks: blocks.collect(), ..model.clone() };
    let network = Network::from_checkpoint(&folded, weights, Device::Cpu)?;
    network.freeze()?;
    let (bands, frames) = (i64::from(model.n_mfcc), i64::from(model.frames));
    let statistic = |name: &str| -> anyhow::Result<Tensor> {
        let tensor = weights.get(name).with_context(|| format!("{FLOAT_FILE} has no {name}"))?;
        Ok(Tensor::f_from_slice(&tensor.values)?.f_view([bands, 1])?)
    };
    let (mean, std) = (statistic("input.mean")?, statistic("input.std")?);
    let matrix = match model.input {
        earshot_common::model::Input::Mfcc => None,
        earshot_common::model::Input::Mel => {
            Some(Tensor::f_from_slice(&inverse_dct(model.n_mfcc as usize))?.f_view([bands, bands])?)
        }
    };
    let forward = |features: &Tensor| -> Result<Tensor, tch::TchError> {
        let mut x = features.f_squeeze_dim(1)?;
        if let Some(matrix) = &matrix {
            x = matrix.f_matmul(&x)?;
        }
        network.forward(&x.f_sub(&mean)?.f_div(&std)?, Mode::Evaluation)
    };
    let example = Tensor::f_zeros([1, 1, bands, frames], (tch::Kind::Float, Device::Cpu))?;
    let _no_grad = tch::no_grad_guard();
    // It may be called only once tracing has begun, and cannot say there that it failed.
    drop(forward(&example)?);
    let mut closure = |inputs: &[Tensor]| inputs.iter().filter_map(|input| forward(input).ok()).collect();
    Ok(CModule::create_by_tracing("AudioCnn", "forward", &[example], &mut closure)?)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(bytes).with_context(|| format!("{} cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use earshot_common::model::{Convolution, Head, Input, Pooling, Reduction};

    use super::*;
    use crate::network::fresh_weights;

    /// Three clips at once, whatever was traced: they give what the network gives.
    fn check(input: Input, block: Block, head: Head) {
        let model = AudioCnn { input, n_mfcc: 13, frames: 40, blocks: vec![block; 2], head, classes: 5 };
        let mut weights = fresh_weights(&model, 7).unwrap();
        for (name, values) in [("input.mean", vec![-3.0; 13]), ("input.std", vec![2.0; 13])] {
            weights.insert(name.to_owned(), Values { shape: vec![13], values });
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(SCRIPT_FILE);
        trace(&model, &weights).unwrap().save(&file).unwrap();
        let clips = Tensor::randn([3, 1, 13, 40], (tch::Kind::Float, Device::Cpu));
        let found = CModule::load(&file).unwrap().forward_ts(&[&clips]).unwrap();

        let network = Network::from_checkpoint(&model, &weights, Device::Cpu).unwrap();
        let mut features = clips.squeeze_dim(1);
        if input == Input::Mel {
            features = Tensor::from_slice(&inverse_dct(13)).view([13, 13]).matmul(&features);
        }
        let expected = network.forward(&((features + 3.0) / 2.0), Mode::Evaluation).unwrap();
        assert_eq!(found.size(), [3, 5]);
        let difference = f64::try_from((found - expected).abs().max()).unwrap();
        assert!(difference < 1e-5, "{input:?} {block:?} {head:?}: {difference}");
    }

    #[test]
    fn what_is_written_gives_what_the_network_gives() {
        let block = Block::new(6, 3);
        let flat = Head { reduction: Reduction::Flatten, dropout: 0.3, fc_units: Some(8) };
        let mean = Head { reduction: Reduction::Mean, dropout: 0.0, fc_units: None };
        check(Input::Mfcc, block, flat);
        check(Input::Mel, Block { pooling: Pooling::Average, ..block }, mean);
        let separable = Block { convolution: Convolution::DepthwiseSeparable, ..block };
        check(Input::Mel, separable, Head { reduction: Reduction::MeanMax, ..mean });
    }

    #[test]
    fn a_folder_without_a_bundle_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = write(folder.path(), &folder.path().join(SCRIPT_FILE)).unwrap_err().to_string();
        assert!(refused.contains("is no bundle") && refused.contains("coordinator export"), "{refused}");
    }
}
