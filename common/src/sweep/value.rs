//! One hyperparameter's value.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a sweep file may give a hyperparameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Whole numbers.
    List(Vec<i64>),
    /// A word.
    Text(String),
}

impl fmt::Display for Value {
    /// As it would stand in a sweep file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(truth) => write!(f, "{truth}"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::List(numbers) => write!(f, "{numbers:?}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}
