//! Classes of a list: their indices, and names that may mean the same.

use std::collections::BTreeMap;

use unicode_normalization::UnicodeNormalization;

/// Classes at most: class indices are 16-bit numbers, and a tuner of small classifiers has no use for more.
pub const CLASSES_MAX: usize = 4096;

/// Numbers classes in the order they are met in, until all are known.
#[derive(Debug, Default)]
pub(super) struct Classes {
    numbers: BTreeMap<String, u16>,
}

impl Classes {
    /// The number of a class, a new one for a new name; `None` beyond [`CLASSES_MAX`].
    pub(super) fn number(&mut self, name: &str) -> Option<u16> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        let number = self.numbers.len();
        (number < CLASSES_MAX).then(|| *self.numbers.entry(name.to_owned()).or_insert(number as u16))
    }

    /// The name of a number.
    pub(super) fn name(&self, number: u16) -> &str {
        self.numbers.iter().find(|(_, known)| **known == number).map_or("", |(name, _)| name)
    }

    /// The names in their sorted order, which is that of the class indices, and the index of every number.
    pub(super) fn sorted(self) -> (Vec<String>, Vec<u16>) {
        let mut indices = vec![0; self.numbers.len()];
        for (index, number) in self.numbers.values().enumerate() {
            if let Some(slot) = indices.get_mut(usize::from(*number)) {
                *slot = index as u16;
            }
        }
        (self.numbers.into_keys().collect(), indices)
    }
}

/// A line for every two or more classes whose names differ only in case, white space (`_` and `-` count as such) or Unicode
/// form.
pub(super) fn look_alikes(classes: &[String]) -> Vec<String> {
    let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for class in classes {
        groups.entry(folded(class)).or_default().push(class);
    }
    groups.into_values().filter(|names| names.len() > 1).map(|names| look_alike(&names)).collect()
}

fn look_alike(names: &[&str]) -> String {
    let composed = |name: &str| name.nfc().collect::<String>();
    let same_form = names.windows(2).any(|pair| match pair {
        [a, b] => composed(a) == composed(b),
        _ => false,
    });
    // Two forms of one text look the same on a screen, so their characters are spelt out.
    let shown: Vec<String> = names
        .iter()
        .map(|name| if same_form { format!("\"{}\"", name.escape_default()) } else { format!("{name:?}") })
        .collect();
    format!(
        "classes {} differ only in case, white space or Unicode form: if they mean one class, give them one spelling",
        shown.join(" and ")
    )
}

fn folded(class: &str) -> String {
    let lower: String = class.nfkc().flat_map(char::to_lowercase).nfkc().collect();
    let words =
        lower.split(|c: char| c.is_whitespace() || c == '_' || c == '-').filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(classes: &[&str], expected: &[&str]) {
        let classes: Vec<String> = classes.iter().map(|class| (*class).to_owned()).collect();
        let found = look_alikes(&classes);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, part) in found.iter().zip(expected) {
            assert!(found.starts_with(part), "{found}");
        }
    }

    #[test]
    fn look_alikes_are_named_together() {
        check(&["cat", "dog", "dog bark"], &[]);
        check(&["Dog", "cat", "dog"], &["classes \"Dog\" and \"dog\" differ"]);
        check(
            &["car  horn", "car horn", "car_horn"],
            &["classes \"car  horn\" and \"car horn\" and \"car_horn\""],
        );
        check(&["caf\u{e9}", "cafe\u{301}"], &["classes \"caf\\u{e9}\" and \"cafe\\u{301}\" differ"]);
        check(&["ﬁre", "fire"], &["classes \"ﬁre\" and \"fire\""]);
    }

    #[test]
    fn indices_follow_the_names() {
        let mut classes = Classes::default();
        let numbers: Vec<_> = ["rain", "dog", "rain", "cat"].map(|name| classes.number(name).unwrap()).into();
        assert_eq!((numbers, classes.name(1)), (vec![0, 1, 0, 2], "dog"));
        assert_eq!(classes.sorted(), (vec!["cat".into(), "dog".into(), "rain".into()], vec![2, 1, 0]));
    }
}
