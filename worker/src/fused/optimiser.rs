//! One Adam for all members, each with its own numbers. [`Rule`] says what they are, as for one run alone.

use tch::{Device, TchError, Tensor};

use super::stacked::Stacked;
use crate::{
    device::upload,
    training::{
        optimiser::{Numbers, Rule},
        schedule::Pace,
    },
};

/// Numbers of one step of one member that are not the same for all: coupled decay, shrink, rate of the mean, scale, epsilon.
const NUMBERS: usize = 5;

/// The optimisers' state.
#[derive(Debug)]
pub struct FusedAdam {
    rules: Vec<Rule>,
    /// Moving means of gradients.
    means: Stacked,
    /// Moving means of squared gradients.
    squares: Stacked,
    epoch: Option<Epoch>,
}

/// The numbers of an epoch's steps.
#[derive(Debug)]
struct Epoch {
    /// `(steps, NUMBERS, members)`.
    numbers: Tensor,
    /// Of the mean of squared gradients: the same for all.
    rate_2: f64,
    /// Whether any member has weight decay, coupled or decoupled.
    is_decayed: [bool; 2],
}

impl FusedAdam {
    /// Fresh state for these weights, under each member's rule.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn new(weights: &Stacked, rules: Vec<Rule>) -> Result<Self, TchError> {
        Ok(Self { rules, means: weights.zeros()?, squares: weights.zeros()?, epoch: None })
    }

    /// Goes on with the members in these places, `(places)`, alone.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn retain(&mut self, is_kept: &[bool], places: &Tensor) -> Result<(), TchError> {
        let mut kept = is_kept.iter().copied();
        self.rules.retain(|_| kept.next().unwrap_or(true));
        self.means = self.means.select(places)?;
        self.squares = self.squares.select(places)?;
        self.epoch = None;
        Ok(())
    }

    /// Copies the numbers of the next steps to the device: for each step, each member's pace.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn plan(&mut self, paces: &[Vec<Pace>], device: Device) -> Result<(), TchError> {
        let mut values = Vec::with_capacity(paces.len() * NUMBERS * self.rules.len());
        let mut rate_2 = 0.0;
        let mut is_decayed = [false; 2];
        for paces in paces {
            let numbers: Vec<Numbers> =
                self.rules.iter_mut().zip(paces).map(|(rule, pace)| rule.next(*pace)).collect();
            rate_2 = numbers.first().map_or(rate_2, |numbers| numbers.rates[1]);
            is_decayed[0] |= numbers.iter().any(|numbers| numbers.coupled_decay > 0.0);
            is_decayed[1] |= numbers.iter().any(|numbers| numbers.shrink < 1.0);
            let of: [fn(&Numbers) -> f64; NUMBERS] = [
                |numbers| numbers.coupled_decay,
                |numbers| numbers.shrink,
                |numbers| numbers.rates[0],
                |numbers| numbers.scale,
                |numbers| numbers.epsilon,
            ];
            values.extend(of.iter().flat_map(|of| numbers.iter().map(move |numbers| of(numbers) as f32)));
        }
        let shape = [paces.len() as i64, NUMBERS as i64, self.rules.len() as i64];
        self.epoch = Some(Epoch { numbers: upload(&values, device)?.f_view(shape)?, rate_2, is_decayed });
        Ok(())
    }

    /// The step of this index among those planned; gradients in the order in which the weights are stacked.
    ///
    /// # Errors
    /// libtorch refuses, or no such step was planned.
    pub fn step(&mut self, weights: &Stacked, gradients: &[Tensor], index: usize) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        let Some(Epoch { numbers, rate_2, is_decayed: [is_coupled, is_decoupled] }) = &self.epoch else {
            return Err(TchError::Torch("a step that was not planned".to_owned()));
        };
        let numbers = weights.spread(&numbers.f_get(index as i64)?)?;
        let number = |row: i64| numbers.f_get(row);
        let lines: Vec<Tensor> =
            gradients.iter().map(|gradient| gradient.f_reshape([-1_i64])).collect::<Result<_, _>>()?;
        let mut gradient = Tensor::f_cat(&lines, 0)?;
        let mut value = weights.flat().shallow_clone();
        let (mut mean, mut square) = (self.means.flat().shallow_clone(), self.squares.flat().shallow_clone());
        if *is_coupled {
            let _ = gradient.f_addcmul_(&value, &number(0)?)?;
        }
        if *is_decoupled {
            let _ = value.f_mul_(&number(1)?)?;
        }
        let _ = mean.f_lerp_tensor_(&gradient, &number(2)?)?;
        let _ = gradient.f_square_()?;
        let _ = square.f_lerp_(&gradient, *rate_2)?;
        let denominator = square.f_sqrt()?.f_mul_(&number(3)?)?.f_add_(&number(4)?)?;
        let _ = value.f_addcdiv_(&mean, &denominator)?;
        Ok(())
    }
}
