//! The forward pass as the spec defines it, one sum after the other: what both files are held against.

use earshot_common::{
    model::{
        AudioCnn, BATCH_NORM_EPS, Conv2d, Input, Operation, Pooling, Reduction, Step, input::inverse_dct,
    },
    tensors::Tensors,
};

/// Maps of one clip, row-major `(channels, rows, columns)`.
struct Maps {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

/// Logits of one clip's features, `(n_mfcc, frames)` row-major.
pub(super) fn forward(model: &AudioCnn, tensors: &Tensors, features: &[f32]) -> Vec<f32> {
    let mut maps = Maps {
        rows: model.n_mfcc as usize,
        columns: model.frames as usize,
        values: standardised(model, tensors, features),
    };
    for step in model.steps().unwrap() {
        match step {
            Step::Layer(layer) => {
                let tensor = |part: &str| {
                    tensors.get(&format!("{}.{part}", layer.name)).map(|tensor| tensor.values.as_slice())
                };
                match layer.operation {
                    Operation::Conv2d(conv) => {
                        maps.values = convolve(&conv, tensor("weight").unwrap(), tensor("bias"), &maps);
                        if conv.batch_norm {
                            let area = maps.rows * maps.columns;
                            batch_norm(&mut maps.values, area, &|part| {
                                tensor(&format!("norm.{part}")).unwrap()
                            });
                        }
                        relu(&mut maps.values);
                    }
                    Operation::Hidden(_) => {
                        maps.values =
                            multiply(tensor("weight").unwrap(), tensor("bias").unwrap(), &maps.values);
                        relu(&mut maps.values);
                    }
                    Operation::Logits(_) => {
                        return multiply(tensor("weight").unwrap(), tensor("bias").unwrap(), &maps.values);
                    }
                }
            }
            Step::Pool(pool) => maps = maps.pool(pool.pooling),
            Step::Reduce(reduce) => maps.values = maps.reduce(reduce.reduction),
        }
    }
    unreachable!("the last step gives logits")
}

fn standardised(model: &AudioCnn, tensors: &Tensors, features: &[f32]) -> Vec<f32> {
    let (n_mfcc, frames) = (model.n_mfcc as usize, model.frames as usize);
    let matrix = inverse_dct(n_mfcc);
    let input = |row: usize, frame: usize| match model.input {
        Input::Mfcc => features[row * frames + frame],
        Input::Mel => (0..n_mfcc)
            .map(|k| f64::from(matrix[row * n_mfcc + k] * features[k * frames + frame]))
            .sum::<f64>() as f32,
    };
    let statistic = |name: &str, row: usize| tensors[name].values[row];
    (0..n_mfcc * frames)
        .map(|index| (index / frames, index % frames))
        .map(|(row, frame)| (input(row, frame) - statistic("input.mean", row)) / statistic("input.std", row))
        .collect()
}

fn convolve(conv: &Conv2d, weight: &[f32], bias: Option<&[f32]>, maps: &Maps) -> Vec<f32> {
    let (rows, columns, kernel) = (maps.rows, maps.columns, conv.kernel_size as usize);
    let pad = kernel / 2;
    let channels = (conv.input[0] / conv.groups) as usize;
    let filters_of_group = (conv.filters / conv.groups) as usize;
    let at = |f: usize, y: usize, x: usize| {
        let mut sum = bias.map_or(0.0, |bias| f64::from(bias[f]));
        for (c, i, j) in
            (0..channels).flat_map(|c| (0..kernel * kernel).map(move |k| (c, k / kernel, k % kernel)))
        {
            let (row, column) = (y + i, x + j);
            if (pad..rows + pad).contains(&row) && (pad..columns + pad).contains(&column) {
                let channel = f / filters_of_group * channels + c;
                let value = maps.values[(channel * rows + row - pad) * columns + column - pad];
                sum += f64::from(value * weight[((f * channels + c) * kernel + i) * kernel + j]);
            }
        }
        sum as f32
    };
    let places = (0..rows * columns).map(|place| (place / columns, place % columns));
    (0..conv.filters as usize)
        .flat_map(|f| places.clone().map(move |(y, x)| (f, y, x)))
        .map(|(f, y, x)| at(f, y, x))
        .collect()
}

fn batch_norm<'a>(values: &mut [f32], area: usize, tensor: &dyn Fn(&str) -> &'a [f32]) {
    for (channel, map) in values.chunks_exact_mut(area).enumerate() {
        let part = |name: &str| f64::from(tensor(name)[channel]);
        for value in map {
            let normal =
                (f64::from(*value) - part("running_mean")) / (part("running_var") + BATCH_NORM_EPS).sqrt();
            *value = (normal * part("weight") + part("bias")) as f32;
        }
    }
}

fn multiply(weight: &[f32], bias: &[f32], values: &[f32]) -> Vec<f32> {
    let rows = bias.iter().zip(weight.chunks_exact(values.len()));
    rows.map(|(bias, weights)| {
        let products = weights.iter().zip(values).map(|(w, x)| f64::from(w * x));
        (f64::from(*bias) + products.sum::<f64>()) as f32
    })
    .collect()
}

fn relu(values: &mut [f32]) {
    for value in values {
        *value = value.max(0.0);
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len() as f32
}

impl Maps {
    fn pool(&self, pooling: Pooling) -> Self {
        let (rows, columns) = (self.rows / 2, self.columns / 2);
        let mut values = Vec::new();
        for map in self.values.chunks_exact(self.rows * self.columns) {
            for (y, x) in (0..rows * columns).map(|place| (place / columns, place % columns)) {
                let square = [(0, 0), (0, 1), (1, 0), (1, 1)]
                    .map(|(i, j)| map[(2 * y + i) * self.columns + 2 * x + j]);
                values.push(match pooling {
                    Pooling::Max => largest(&square),
                    Pooling::Average => mean(&square),
                });
            }
        }
        Self { rows, columns, values }
    }

    fn reduce(&self, reduction: Reduction) -> Vec<f32> {
        let maps = || self.values.chunks_exact(self.rows * self.columns);
        match reduction {
            Reduction::Flatten => self.values.clone(),
            Reduction::Mean => maps().map(mean).collect(),
            Reduction::MeanMax => maps().map(mean).chain(maps().map(largest)).collect(),
        }
    }
}
