//! The operations that differ from one network's: those on features and losses. Convolutions, batch norm and pooling of `k`
//! members are the same operations on `k` times as many channels, convolutions in `k` times as many groups (Wang et al. 2021,
//! "Horizontally Fused Training Array", section 3).

use earshot_common::model::Reduction;
use tch::{Kind, TchError, Tensor};

/// Maps `(clips, members · channels, rows, columns)` to features `(members, clips, features)`.
///
/// # Errors
/// libtorch refuses.
pub fn reduce(maps: &Tensor, reduction: Reduction, members: i64) -> Result<Tensor, TchError> {
    let clips = maps.size().first().copied().unwrap_or(0);
    let by_member = |features: Tensor| features.f_view([clips, members, -1]);
    let mean = || by_member(maps.f_mean_dim([2_i64, 3].as_slice(), false, None::<Kind>)?);
    let features = match reduction {
        Reduction::Flatten => by_member(maps.f_flatten(1, -1)?)?,
        Reduction::Mean => mean()?,
        Reduction::MeanMax => Tensor::f_cat(&[mean()?, by_member(maps.f_amax([2, 3], false)?)?], 2)?,
    };
    features.f_transpose(0, 1)
}

/// Features `(members, clips, input)` through each member's layer, `(members, output, input)` and `(members · output)`, to
/// `(members, clips, output)`.
///
/// # Errors
/// libtorch refuses.
pub fn linear(features: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor, TchError> {
    let members = weight.size().first().copied().unwrap_or(1);
    bias.f_view([members, 1, -1])?.f_baddbmm(features, &weight.f_transpose(1, 2)?, 1, 1)
}

/// Each member's mean cross-entropy `(members)` of its logits `(members, clips, classes)`, where the targets are
/// probabilities `(clips, members, classes)` of which a part `(members)` is spread over all classes.
///
/// # Errors
/// libtorch refuses.
pub fn losses(logits: &Tensor, targets: &Tensor, smoothing: &Tensor) -> Result<Tensor, TchError> {
    let classes = logits.size().last().copied().unwrap_or(1);
    let smoothing = smoothing.f_view([-1_i64, 1, 1])?;
    let kept = smoothing.f_mul_scalar(-1.0)?.f_add_scalar(1.0)?;
    let spread = smoothing.f_div_scalar(classes)?;
    let targets = targets.f_transpose(0, 1)?.f_mul(&kept)?.f_add(&spread)?;
    let by_clip = targets.f_mul(&logits.f_log_softmax(-1, None::<Kind>)?)?;
    by_clip
        .f_sum_dim_intlist([2_i64].as_slice(), false, None::<Kind>)?
        .f_mean_dim([1_i64].as_slice(), false, None::<Kind>)?
        .f_neg()
}
