//! An AudioCNN on the CPU: what happens from the features to the logits and back.

use earshot_common::{
    model::{AudioCnn, Linear as LinearSpec, Operation, Reduction, Step},
    tensors::{self, Tensors},
};
use pulp::Arch;

use super::{
    adam::Parameter,
    bf16::Precision,
    buffer::Buffer,
    lanes::WIDTH,
    layer::{Layer, Offset, Purpose},
    linear::{self, Linear},
    loss::{self, Targets, Taught},
    packing, reduce,
    shape::Shape,
};
use crate::{network::NetworkError, training::optimiser::Numbers};

/// What one step sees.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// `(clips, n_mfcc, frames)`.
    pub features: &'a [f32],
    /// As many clips.
    pub targets: Targets<'a>,
    /// `(clips, features)` in the order of [`Network::features`]; none without dropout.
    pub mask: Option<&'a [f32]>,
    /// What a teacher makes of the clips; none: there is none.
    pub taught: Option<Taught<'a>>,
}

/// A network with its gradients, its optimiser's means and the room to compute in.
#[derive(Debug)]
pub struct Network {
    arch: Arch,
    layers: Vec<Layer>,
    /// What enters each layer, and the last one's output, with their gradients; the first has none.
    maps: Vec<(Buffer, Buffer)>,
    /// Of the last layer's output, and its channels without those that fill up a group.
    last: Shape,
    channels: usize,
    reduction: Reduction,
    /// Fully connected layers, the last to the logits; what enters each, and the gradient of it.
    dense: Vec<(Dense, Buffer, Buffer)>,
    logits: Vec<f32>,
}

/// A fully connected layer under its name.
#[derive(Debug)]
struct Dense {
    name: String,
    layer: Linear,
    /// Where a checkpoint's weights lie, and their inputs there.
    places: Vec<usize>,
    inputs: usize,
}

impl Network {
    /// With a checkpoint's weights; its input statistics are left aside, as the features carry their own.
    ///
    /// # Errors
    /// The spec cannot be built, or a tensor is missing.
    pub fn new(spec: &AudioCnn, checkpoint: &Tensors, precision: Precision) -> Result<Self, NetworkError> {
        Self::on((Arch::new(), precision), spec, checkpoint)
    }

    /// As [`Self::new`], with these instructions.
    pub(crate) fn on(
        (arch, precision): (Arch, Precision),
        spec: &AudioCnn,
        checkpoint: &Tensors,
    ) -> Result<Self, NetworkError> {
        let tensor = |name: String| match checkpoint.get(&name) {
            Some(tensor) => Ok(tensor.values.clone()),
            None => Err(NetworkError::Missing(name)),
        };
        let mut layers: Vec<Layer> = Vec::new();
        let mut dense: Vec<(Dense, Buffer, Buffer)> = Vec::new();
        let (mut last, mut channels, mut reduction) = (Shape::of_channels(1, 1, 1, 0), 1, Reduction::Flatten);
        // Where a checkpoint's features lie in what enters the next fully connected layer, and floats of that.
        let (mut features, mut floats) = (Vec::new(), 0);
        let mut steps = spec.steps()?.into_iter().peekable();
        while let Some(step) = steps.next() {
            match step {
                Step::Layer(layer) => match layer.operation {
                    Operation::Conv2d(conv) => {
                        let pooling = match steps.peek() {
                            Some(Step::Pool(pool)) => Some(pool.pooling),
                            _ => None,
                        };
                        let width = if layers.is_empty() { 1 } else { WIDTH };
                        let values = |part: &str| tensor(format!("{}.{part}", layer.name));
                        layers.push(Layer::new(
                            (arch, precision),
                            &layer.name,
                            &conv,
                            width,
                            pooling,
                            values,
                        )?);
                    }
                    Operation::Hidden(LinearSpec { output, .. })
                    | Operation::Logits(LinearSpec { output, .. }) => {
                        let output = output as usize;
                        let panel = linear::panel(floats);
                        let places = packing::linear(output, &features, panel);
                        let weights = tensor(format!("{}.weight", layer.name))?;
                        let length = output * floats.next_multiple_of(panel);
                        let weights = packing::pack(&weights, &places, length);
                        let linear = Linear::new(floats, &weights, &tensor(format!("{}.bias", layer.name))?);
                        let inputs = features.len();
                        let named = Dense { name: layer.name, layer: linear, places, inputs };
                        dense.push((named, Buffer::default(), Buffer::default()));
                        features = (0..output).collect();
                        floats = output.next_multiple_of(WIDTH);
                    }
                },
                Step::Pool(_) => {}
                Step::Reduce(reduce) => {
                    reduction = reduce.reduction;
                    if let Some(layer) = layers.last() {
                        (last, channels) = (layer.output(0), layer.filters);
                    }
                    features = packing::features(reduction, last, channels);
                    floats = reduce::floats(reduction, last);
                }
            }
        }
        let maps = (0..=layers.len()).map(|_| Default::default()).collect();
        Ok(Self { arch, layers, maps, last, channels, reduction, dense, logits: Vec::new() })
    }

    /// Floats of one clip's dropout mask. There are more of them than the model has features, in another order: what covers
    /// no feature means nothing.
    pub fn features(&self) -> usize {
        reduce::floats(self.reduction, self.last)
    }

    /// Where the model's features, in a checkpoint's order, lie in a clip's dropout mask.
    pub fn feature_places(&self) -> Vec<usize> {
        packing::features(self.reduction, self.last, self.channels)
    }

    /// Logits `(clips, classes)` of features `(clips, n_mfcc, frames)`: batch norm by its running statistics, no dropout.
    pub fn logits(&mut self, features: &[f32]) -> &[f32] {
        self.forward(features, None, Purpose::Evaluation);
        &self.logits
    }

    /// One step on one batch: forwards, backwards, Adam. The mean loss over the batch, before the step.
    pub fn step(&mut self, batch: Batch, numbers: Numbers, label_smoothing: f64) -> f64 {
        let clips = self.forward(batch.features, batch.mask, Purpose::Training);
        let classes = self.logits.len() / clips.max(1);
        let (logits, targets) = (&mut self.logits, batch.targets);
        let loss = match batch.taught {
            None => loss::cross_entropy(logits, classes, targets, label_smoothing),
            Some(taught) => loss::distilled(logits, classes, targets, label_smoothing, taught),
        };
        self.backward(clips, batch.mask, numbers);
        for layer in &mut self.layers {
            layer.step(numbers);
        }
        loss
    }

    fn forward(&mut self, features: &[f32], mask: Option<&[f32]>, purpose: Purpose) -> usize {
        let clips = self.load(features);
        let pads: Vec<usize> = self.layers.iter().skip(1).map(|layer| layer.input.pad).chain([0]).collect();
        for (index, (layer, pad)) in self.layers.iter_mut().zip(pads).enumerate() {
            let out = layer.output(pad);
            let Ok([(input, _), (output, gradient)]) = self.maps.get_disjoint_mut([index, index + 1]) else {
                break;
            };
            output.reserve(clips * out.clip());
            gradient.reserve(clips * out.clip());
            let input = input.get(..clips * layer.input.clip()).unwrap_or_default();
            layer.forward(input, output.get_mut(..clips * out.clip()).unwrap_or_default(), out, purpose);
        }
        let Some((maps, _)) = self.maps.last() else {
            return 0;
        };
        let maps = maps.get(..clips * self.last.clip()).unwrap_or_default();
        let layers = self.dense.len();
        for at in 0..layers {
            let (before, rest) = self.dense.split_at_mut(at);
            let Some((Dense { layer, .. }, input, gradient)) = rest.first_mut() else {
                break;
            };
            let length = clips * layer.inputs;
            input.reserve(length);
            gradient.reserve(length);
            let input = input.get_mut(..length).unwrap_or_default();
            if before.is_empty() {
                reduce::forward(self.reduction, maps, self.last, input);
                multiply(input, mask);
            }
            if at + 1 == layers {
                self.logits.resize(clips * layer.outputs, 0.0);
                layer.forward(self.arch, input, &mut self.logits);
            } else {
                let mut output = vec![0.0; clips * layer.outputs];
                layer.forward(self.arch, input, &mut output);
                let outputs = layer.outputs;
                if let Some((Dense { layer: next, .. }, to, _)) = self.dense.get_mut(at + 1) {
                    to.reserve(clips * next.inputs);
                    let lines = to.chunks_exact_mut(next.inputs).zip(output.chunks_exact(outputs));
                    for (to, line) in lines {
                        for (to, &value) in to.iter_mut().zip(line) {
                            // As in pooling, what is not a number stays so.
                            *to = if value <= 0.0 { 0.0 } else { value };
                        }
                    }
                }
            }
        }
        clips
    }

    /// Copies features in; how many clips they are.
    fn load(&mut self, features: &[f32]) -> usize {
        let (Some(layer), Some((input, _))) = (self.layers.first(), self.maps.first_mut()) else {
            return 0;
        };
        let shape = layer.input;
        let clips = features.len() / shape.features().max(1);
        input.reserve(clips * shape.clip());
        let clips_in = features.chunks_exact(shape.features()).zip(input.chunks_exact_mut(shape.clip()));
        for (features, clip) in clips_in {
            for (row, line) in features.chunks_exact(shape.columns).enumerate() {
                shape.row_mut(clip, 0, row).copy_from_slice(line);
            }
        }
        clips
    }

    /// From the logits' gradients to those of all layers; the fully connected ones take their step.
    fn backward(&mut self, clips: usize, mask: Option<&[f32]>, numbers: Numbers) {
        let mut delta = std::mem::take(&mut self.logits);
        for at in (0..self.dense.len()).rev() {
            let Some((Dense { layer, .. }, _, gradient)) = self.dense.get_mut(at) else {
                break;
            };
            let length = clips * layer.inputs;
            let gradient = gradient.get_mut(..length).unwrap_or_default();
            layer.backward(self.arch, &delta, gradient, numbers);
            let inputs = layer.inputs;
            if let Some((Dense { layer: before, .. }, ..)) =
                at.checked_sub(1).and_then(|at| self.dense.get(at))
            {
                // Through the hidden layer's ReLU, without what only fills up a line.
                let outputs = before.outputs;
                let Some((_, input, gradient)) = self.dense.get(at) else {
                    break;
                };
                delta.clear();
                for (line, values) in
                    gradient.chunks_exact(inputs).zip(input.chunks_exact(inputs)).take(clips)
                {
                    let kept = line.iter().zip(values).take(outputs);
                    delta.extend(kept.map(|(&line, &value)| if value <= 0.0 { 0.0 } else { line }));
                }
            }
        }
        self.logits = delta;
        let (Some((_, _, features)), Some((maps, gradient))) = (self.dense.first_mut(), self.maps.last_mut())
        else {
            return;
        };
        let length = clips * reduce::floats(self.reduction, self.last);
        let features = features.get_mut(..length).unwrap_or_default();
        multiply(features, mask);
        let maps = maps.get(..clips * self.last.clip()).unwrap_or_default();
        let gradient = gradient.get_mut(..clips * self.last.clip()).unwrap_or_default();
        reduce::backward(self.reduction, maps, self.last, features, gradient);

        let mut out = self.last;
        for (index, layer) in self.layers.iter_mut().enumerate().rev() {
            let Ok([(input, input_gradient), (_, gradient)]) = self.maps.get_disjoint_mut([index, index + 1])
            else {
                break;
            };
            let length = clips * layer.input.clip();
            let input = input.get(..length).unwrap_or_default();
            let gradient = gradient.get(..clips * out.clip()).unwrap_or_default();
            let wanted = (index > 0).then(|| input_gradient.get_mut(..length).unwrap_or_default());
            layer.backward(input, gradient, out, wanted);
            out = layer.input;
        }
    }

    /// A copy of every tensor's values, by the checkpoint's names.
    pub fn values(&self) -> Tensors {
        let mut values = self.read(|parameter| &parameter.values);
        for layer in &self.layers {
            if let Offset::Norm(norm) = &layer.offset {
                for (part, running) in [("mean", &norm.running_mean), ("var", &norm.running_var)] {
                    let tensor = by_channel(running, layer.filters);
                    values.insert(format!("{}.norm.running_{part}", layer.name), tensor);
                }
            }
        }
        values
    }

    /// The optimiser's moving means, of gradients and of their squares, by the checkpoint's names.
    pub fn moments(&self) -> [Tensors; 2] {
        [self.read(|parameter| &parameter.mean), self.read(|parameter| &parameter.square)]
    }

    /// Goes on from these moments.
    pub fn resume(&mut self, [means, squares]: &[Tensors; 2]) {
        let put = |buffer: &mut Buffer, places: &[usize], tensor: Option<&tensors::Tensor>| {
            let values = tensor.map(|tensor| tensor.values.as_slice()).unwrap_or_default();
            let packed = packing::pack(values, places, buffer.len());
            buffer.copy_from_slice(&packed);
        };
        self.visit(|name, places, parameter| {
            put(&mut parameter.mean, places, means.get(name));
            put(&mut parameter.square, places, squares.get(name));
        });
    }

    /// Shows every parameter with its name and where a checkpoint's values lie in it.
    fn visit(&mut self, mut see: impl FnMut(&str, &[usize], &mut Parameter)) {
        for Layer { name, filters, weight, places, offset, .. } in &mut self.layers {
            see(&format!("{name}.weight"), places, weight);
            let channels: Vec<usize> = (0..*filters).collect();
            match offset {
                Offset::Bias(bias) => see(&format!("{name}.bias"), &channels, bias),
                Offset::Norm(norm) => {
                    see(&format!("{name}.norm.weight"), &channels, &mut norm.weight);
                    see(&format!("{name}.norm.bias"), &channels, &mut norm.bias);
                }
            }
        }
        for (Dense { name, layer, places, .. }, ..) in &mut self.dense {
            see(&format!("{name}.weight"), places, &mut layer.weight);
            let outputs: Vec<usize> = (0..layer.outputs).collect();
            see(&format!("{name}.bias"), &outputs, &mut layer.bias);
        }
    }

    fn read(&self, of: impl Fn(&Parameter) -> &Buffer) -> Tensors {
        let mut tensors = Tensors::new();
        for layer in &self.layers {
            let Layer { name, filters, kernel, .. } = layer;
            let values = packing::unpack(of(&layer.weight), &layer.places);
            let channels = values.len() / (filters * kernel * kernel).max(1);
            let shape = vec![*filters, channels, *kernel, *kernel];
            tensors.insert(format!("{name}.weight"), tensors::Tensor { shape, values });
            let mut put = |part: &str, parameter: &Parameter| {
                tensors.insert(format!("{name}.{part}"), by_channel(of(parameter), *filters));
            };
            match &layer.offset {
                Offset::Bias(bias) => put("bias", bias),
                Offset::Norm(norm) => {
                    put("norm.weight", &norm.weight);
                    put("norm.bias", &norm.bias);
                }
            }
        }
        for (Dense { name, layer, places, inputs }, ..) in &self.dense {
            let values = packing::unpack(of(&layer.weight), places);
            let shape = vec![layer.outputs, *inputs];
            tensors.insert(format!("{name}.weight"), tensors::Tensor { shape, values });
            tensors.insert(format!("{name}.bias"), by_channel(of(&layer.bias), layer.outputs));
        }
        tensors
    }
}

/// The first so many values: what fills up the last group is left aside.
fn by_channel(values: &[f32], channels: usize) -> tensors::Tensor {
    tensors::Tensor { shape: vec![channels], values: values.iter().copied().take(channels).collect() }
}

/// Multiplies by the dropout mask, if there is one.
fn multiply(values: &mut [f32], mask: Option<&[f32]>) {
    for (value, factor) in values.iter_mut().zip(mask.unwrap_or_default()) {
        *value *= factor;
    }
}
