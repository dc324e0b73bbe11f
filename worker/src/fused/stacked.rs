//! Tensors of several members in one: tensor after tensor, and of each, member after member.
//!
//! So every tensor of the network is one contiguous piece with the members' side by side, as fused operations take it, while
//! the optimiser sees one long line of numbers.

use std::sync::Arc;

use earshot_common::tensors::{Tensor as Values, Tensors};
use tch::{Device, TchError, Tensor};

use crate::{
    device::upload,
    network::{NetworkError, copy_out},
};

/// The members' tensors.
#[derive(Debug)]
pub struct Stacked {
    /// Of one member.
    layout: Arc<[Place]>,
    members: i64,
    flat: Tensor,
    /// By element of `flat`: whose it is.
    owners: Tensor,
}

/// One tensor of one member.
#[derive(Debug)]
struct Place {
    name: String,
    shape: Vec<usize>,
    /// Elements before it.
    start: i64,
    /// Its own.
    count: i64,
}

impl Stacked {
    /// The tensors of these names and shapes from each member's checkpoint.
    ///
    /// # Errors
    /// A checkpoint lacks one, or libtorch refuses.
    pub fn new(
        shapes: impl Iterator<Item = (String, Vec<usize>)>,
        checkpoints: &[&Tensors],
        device: Device,
    ) -> Result<Self, NetworkError> {
        let mut layout = Vec::new();
        let mut values = Vec::new();
        let mut start = 0;
        for (name, shape) in shapes {
            let count = shape.iter().product::<usize>() as i64;
            for checkpoint in checkpoints {
                let found = checkpoint.get(&name).filter(|tensor| tensor.values.len() as i64 == count);
                let found = found.ok_or_else(|| NetworkError::Missing(name.clone()))?;
                values.extend_from_slice(&found.values);
            }
            layout.push(Place { name, shape, start, count });
            start += count;
        }
        let (layout, members) = (Arc::from(layout), checkpoints.len() as i64);
        let owners = owners(&layout, members, device)?;
        Ok(Self { layout, members, flat: upload(&values, device)?, owners })
    }

    /// As many zeros.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn zeros(&self) -> Result<Self, TchError> {
        Ok(self.with(self.flat.f_zeros_like()?))
    }

    /// A copy that stays as it is.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn snapshot(&self) -> Result<Self, TchError> {
        Ok(self.with(self.flat.f_detach_copy()?))
    }

    /// All numbers in one line; changed in place, they change here.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// Each tensor's name, its shape in one member, and `(members · count)` of it, which shares memory with the line.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn pieces(&self) -> impl Iterator<Item = Result<(&str, &[usize], Tensor), TchError>> {
        self.layout.iter().map(|Place { name, shape, start, count }| {
            let piece = self.flat.f_narrow(0, start * self.members, count * self.members)?;
            Ok((name.as_str(), shape.as_slice(), piece))
        })
    }

    /// Numbers `(…, members)` for every element: `(…, elements)`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn spread(&self, by_member: &Tensor) -> Result<Tensor, TchError> {
        by_member.f_index_select(-1, &self.owners)
    }

    /// Takes those members' numbers, `(members)` of booleans, from another stack.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn take_over(&mut self, other: &Self, are_taken: &Tensor) -> Result<(), TchError> {
        self.flat = other.flat.f_where_self(&self.spread(are_taken)?, &self.flat)?;
        Ok(())
    }

    /// The stack of the members in these places, `(places)`, alone.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn select(&self, places: &Tensor) -> Result<Self, TchError> {
        let pieces = self
            .pieces()
            .map(|piece| piece?.2.f_view([self.members, -1])?.f_index_select(0, places)?.f_flatten(0, 1));
        let pieces: Vec<Tensor> = pieces.collect::<Result<_, _>>()?;
        let members = places.numel() as i64;
        let flat = if pieces.is_empty() { self.flat.shallow_clone() } else { Tensor::f_cat(&pieces, 0)? };
        let owners = owners(&self.layout, members, flat.device())?;
        Ok(Self { layout: Arc::clone(&self.layout), members, flat, owners })
    }

    /// A copy of one member's tensors, by name.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn member(&self, place: usize) -> Result<Tensors, TchError> {
        let lines = self.pieces().map(|piece| piece?.2.f_view([self.members, -1])?.f_get(place as i64));
        let lines: Vec<Tensor> = lines.collect::<Result<_, _>>()?;
        if lines.is_empty() {
            return Ok(Tensors::new());
        }
        let mut values = copy_out(&Tensor::f_cat(&lines, 0)?)?.values.into_iter();
        let tensors = self.layout.iter().map(|Place { name, shape, count, .. }| {
            let values = values.by_ref().take(*count as usize).collect();
            (name.clone(), Values { shape: shape.clone(), values })
        });
        Ok(tensors.collect())
    }

    fn with(&self, flat: Tensor) -> Self {
        Self {
            layout: Arc::clone(&self.layout),
            members: self.members,
            flat,
            owners: self.owners.shallow_clone(),
        }
    }
}

/// By element: the place of its member.
fn owners(layout: &[Place], members: i64, device: Device) -> Result<Tensor, TchError> {
    let owners = layout.iter().flat_map(|place| {
        (0..members).flat_map(move |member| std::iter::repeat_n(member, place.count as usize))
    });
    upload(&owners.collect::<Vec<i64>>(), device)
}
