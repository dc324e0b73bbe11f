//! The grid in an order of its own.

use earshot_common::sweep::{Point, Space};
use rand::RngExt;

use super::dice::dice;

/// Rounds of the cipher: four make a Feistel network of good round functions a pseudorandom permutation (Luby and Rackoff
/// 1988); an order to visit points in asks for no more.
const ROUNDS: usize = 4;
/// Marks the generator of the order, which belongs to no one proposal.
const ORDER: u64 = u64::MAX;

/// The point of that number when the grid is shuffled.
pub(super) fn shuffled(space: &Space, seed: u64, number: u64) -> Option<Point> {
    let size = space.size()?;
    (number < size).then_some(())?;
    let mut dice = dice(seed, ORDER);
    let keys: [u64; ROUNDS] = std::array::from_fn(|_| dice.random());
    space.point(permuted(number, size, keys))
}

/// Where `number` is put among the numbers below `size`: a Feistel network on the smallest even number of bits that holds
/// them all, walked until it lands among them (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). It needs
/// no list, whatever the size.
fn permuted(number: u64, size: u64, keys: [u64; ROUNDS]) -> u64 {
    let bits = (64 - size.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1 << bits) - 1;
    let mut place = number;
    loop {
        let (mut left, mut right) = (place >> bits, place & mask);
        for key in keys {
            (left, right) = (right, left ^ (mixed(right ^ key) & mask));
        }
        place = (left << bits) | right;
        if place < size {
            return place;
        }
    }
}

/// SplitMix64's finaliser (Steele, Lea and Flood 2014).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_has_a_place_of_its_own(size in 1u64..3_000, keys: [u64; ROUNDS]) {
            let places: BTreeSet<u64> = (0..size).map(|number| permuted(number, size, keys)).collect();
            prop_assert_eq!((places.len() as u64, places.last().copied()), (size, Some(size - 1)));
        }
    }

    #[test]
    fn seeds_give_orders_of_their_own() {
        let order = |keys| -> Vec<u64> { (0..50).map(|number| permuted(number, 50, keys)).collect() };
        assert_ne!(order([1, 2, 3, 4]), order([5, 6, 7, 8]));
        assert_ne!(order([1, 2, 3, 4]), (0..50).collect::<Vec<_>>());
    }
}
