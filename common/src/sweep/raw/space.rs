//! The file's `[space]` and `[[forbid]]`: domains, conditions, and what they refer to.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value as Toml};

use crate::sweep::{
    Combination, Domain, Hyperparameter, Space, Value,
    domain::{Interval, Spacing},
    error::hint,
    hyperparameter::Kind,
};

/// Keys that a hyperparameter's table may have.
const KEYS: [&str; 6] = ["choice", "float", "int", "log", "step", "when"];
/// Values of one stepped range at most: with more steps than this it is as good as continuous.
const STEPS_MAX: u64 = 100_000;

/// What is wrong, and the path of the key to blame, as in `space.dropout`.
type Complaint = (String, String);

/// The space that the file describes.
pub(super) fn space(
    raw: &BTreeMap<String, Toml>,
    forbid: &[BTreeMap<String, Toml>],
) -> Result<Space, Complaint> {
    let (mut domains, mut conditions) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in raw {
        let blame = |message| (format!("space.{name}"), message);
        let hyperparameter = hyperparameter(name).map_err(blame)?;
        let (domain, when) = domain(hyperparameter, value).map_err(blame)?;
        domains.insert(hyperparameter, domain);
        conditions.extend(when.map(|when| (hyperparameter, when)));
    }
    let mut when = BTreeMap::new();
    for (&name, raw) in &conditions {
        let blame = |message| (format!("space.{}", name.name()), message);
        let condition = combination(raw, &domains, None).map_err(blame)?;
        if condition.of.is_empty() {
            return Err(blame(format!(
                "{} has an empty condition; write when = {{ optimizer = \"adamw\" }}, or leave it out",
                name.name()
            )));
        }
        when.insert(name, condition);
    }
    refuse_cycles(&when)?;
    let forbid: Vec<Combination> = forbid
        .iter()
        .enumerate()
        .map(|(index, raw)| {
            let raw = raw.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            let blame = |message| (format!("forbid.{index}"), message);
            let forbidden = combination(&raw, &domains, Some(&when)).map_err(blame)?;
            if forbidden.of.is_empty() {
                return Err(blame("an empty [[forbid]] forbids every point; name what must not meet".into()));
            }
            Ok(forbidden)
        })
        .collect::<Result<_, _>>()?;
    Ok(Space::new(domains).with(when, forbid))
}

fn hyperparameter(name: &str) -> Result<Hyperparameter, String> {
    Hyperparameter::from_name(name).ok_or_else(|| {
        let known = Hyperparameter::ALL.iter().map(|known| known.name());
        format!("unknown hyperparameter {name:?}; {}", hint(name, known))
    })
}

/// A fixed value, or a table of a domain and maybe a condition.
fn domain(hyperparameter: Hyperparameter, raw: &Toml) -> Result<(Domain, Option<Table>), String> {
    let name = hyperparameter.name();
    let Toml::Table(table) = raw else {
        return Ok((Domain::Fixed(accept(hyperparameter, raw)?), None));
    };
    if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("unknown key {unknown:?} for {name}; {}", hint(unknown, KEYS)));
    }
    let kinds: Vec<(&str, &Toml)> =
        ["choice", "float", "int"].into_iter().filter_map(|key| Some((key, table.get(key)?))).collect();
    let domain = match kinds.as_slice() {
        [("choice", list)] => {
            if let Some(key) = ["log", "step"].into_iter().find(|key| table.contains_key(*key)) {
                return Err(format!("{key} has no meaning for a choice of {name}; remove it"));
            }
            choice(hyperparameter, list)?
        }
        [("float", ends)] => float(hyperparameter, ends, table)?,
        [(_, ends)] => int(hyperparameter, ends, table)?,
        _ => {
            return Err(format!(
                "{name} needs one of choice = [ … ], float = [low, high] and int = [low, high], or a fixed value"
            ));
        }
    };
    let when = match table.get("when") {
        None => None,
        Some(Toml::Table(when)) => Some(when.clone()),
        Some(other) => {
            return Err(format!("when wants a table, as when = {{ optimizer = \"adamw\" }}, got {other}"));
        }
    };
    Ok((domain, when))
}

fn accept(hyperparameter: Hyperparameter, raw: &Toml) -> Result<Value, String> {
    hyperparameter.accept(value(raw).ok_or_else(|| {
        let name = hyperparameter.name();
        format!("{name} must be a number, a list of whole numbers, a word, true or false, got {raw}")
    })?)
}

fn value(raw: &Toml) -> Option<Value> {
    match raw {
        Toml::Boolean(truth) => Some(Value::Bool(*truth)),
        Toml::Integer(number) => Some(Value::Int(*number)),
        Toml::Float(number) => Some(Value::Float(*number)),
        Toml::String(text) => Some(Value::Text(text.clone())),
        Toml::Array(items) => items.iter().map(Toml::as_integer).collect::<Option<_>>().map(Value::List),
        _ => None,
    }
}

fn choice(hyperparameter: Hyperparameter, raw: &Toml) -> Result<Domain, String> {
    let name = hyperparameter.name();
    let choices = raw
        .as_array()
        .ok_or_else(|| format!("{name} needs a list of values: {name} = {{ choice = [ … ] }}"))?;
    let accept = |raw| accept(hyperparameter, raw);
    let values = choices.iter().map(accept).collect::<Result<Vec<_>, _>>()?;
    if let Some(repeated) =
        values.iter().enumerate().find(|(i, value)| values.iter().take(*i).any(|v| v == *value))
    {
        return Err(format!("{name} lists {} twice; the same trial would be trained twice", repeated.1));
    }
    match <[Value; 1]>::try_from(values) {
        Ok([only]) => Ok(Domain::Fixed(only)),
        Err(values) if values.is_empty() => {
            Err(format!("{name} has no values; name at least one in choice = [ … ]"))
        }
        Err(values) => Ok(Domain::Choice(values)),
    }
}

fn float(hyperparameter: Hyperparameter, raw: &Toml, table: &Table) -> Result<Domain, String> {
    let name = hyperparameter.name();
    if !matches!(hyperparameter.kind(), Kind::Float(..)) {
        return Err(not_a(hyperparameter, "float"));
    }
    let number = |value| match value {
        Value::Float(number) => Some(number),
        _ => None,
    };
    let [low, high] = ends(hyperparameter, raw, "float", number)?;
    let spacing = match (is_log(name, table)?, table.get("step")) {
        (true, Some(_)) => return Err(log_and_step(name)),
        (true, None) if low <= 0.0 => return Err(log_from_zero(name, low)),
        (true, None) => Spacing::Log,
        (false, None) => Spacing::Linear,
        (false, Some(step)) => {
            let number = step.as_float().or_else(|| step.as_integer().map(|step| step as f64));
            let step = number.filter(|step| *step > 0.0 && *step <= high - low);
            Spacing::Step(step.ok_or_else(|| wrong_step(name, high - low, table))?)
        }
    };
    bounded(name, Domain::Float(Interval { low, high, spacing }))
}

fn int(hyperparameter: Hyperparameter, raw: &Toml, table: &Table) -> Result<Domain, String> {
    let name = hyperparameter.name();
    if !matches!(hyperparameter.kind(), Kind::Int(_) | Kind::IntOrNone(_)) {
        return Err(not_a(hyperparameter, "int"));
    }
    let number = |value| match value {
        Value::Int(number) => Some(number),
        _ => None,
    };
    let [low, high] = ends(hyperparameter, raw, "int", number)?;
    let spacing = match (is_log(name, table)?, table.get("step")) {
        (true, Some(_)) => return Err(log_and_step(name)),
        (true, None) if low <= 0 => return Err(log_from_zero(name, low)),
        (true, None) => Spacing::Log,
        (false, None) => Spacing::Linear,
        (false, Some(step)) => {
            let step = step.as_integer().filter(|step| *step > 0 && *step <= high - low);
            Spacing::Step(step.ok_or_else(|| wrong_step(name, high - low, table))?)
        }
    };
    bounded(name, Domain::Int(Interval { low, high, spacing }))
}

/// Both ends of a range, each a value that the hyperparameter may have.
fn ends<T: PartialOrd + Copy>(
    hyperparameter: Hyperparameter,
    raw: &Toml,
    kind: &str,
    number: impl Fn(Value) -> Option<T>,
) -> Result<[T; 2], String> {
    let name = hyperparameter.name();
    let wrong = || {
        format!("{name} needs two ends, the smaller first: {name} = {{ {kind} = [low, high] }}, got {raw}")
    };
    let Some([low, high]) = raw.as_array().map(Vec::as_slice) else { return Err(wrong()) };
    let [low, high] = [accept(hyperparameter, low)?, accept(hyperparameter, high)?].map(number);
    let [low, high] = [low.ok_or_else(wrong)?, high.ok_or_else(wrong)?];
    if low < high { Ok([low, high]) } else { Err(wrong()) }
}

fn is_log(name: &str, table: &Table) -> Result<bool, String> {
    match table.get("log") {
        None => Ok(false),
        Some(raw) => raw.as_bool().ok_or_else(|| format!("log of {name} must be true or false, got {raw}")),
    }
}

fn bounded(name: &str, domain: Domain) -> Result<Domain, String> {
    match domain.count() {
        Some(count) if count > STEPS_MAX => Err(format!(
            "{name} has {count} steps, at most {STEPS_MAX} are allowed; take a larger step or none"
        )),
        _ => Ok(domain),
    }
}

fn not_a(hyperparameter: Hyperparameter, kind: &str) -> String {
    let (name, right) = (hyperparameter.name(), hyperparameter.kind());
    let better = match right {
        Kind::Float(..) => "float = [low, high]",
        Kind::Int(_) | Kind::IntOrNone(_) => "int = [low, high]",
        Kind::OneOf(_) | Kind::Word(_) | Kind::Bool | Kind::Filters => "choice = [ … ]",
    };
    format!("{name} is {right}, so it has no {kind} range; write {name} = {{ {better} }}")
}

fn log_and_step(name: &str) -> String {
    format!("{name} has both log and step; a logarithmic range has no even steps, list them with choice")
}

fn log_from_zero(name: &str, low: impl std::fmt::Display) -> String {
    format!("{name} begins at {low}, but a logarithmic range must begin above 0")
}

fn wrong_step(name: &str, width: impl std::fmt::Display, table: &Table) -> String {
    let step = table.get("step").map_or_else(String::new, ToString::to_string);
    format!("step of {name} must be above 0 and at most {width}, a whole number for int, got {step}")
}

/// Values of named hyperparameters that they can have; their defaults count where a condition may leave them at these.
fn combination(
    raw: &Table,
    domains: &BTreeMap<Hyperparameter, Domain>,
    when: Option<&BTreeMap<Hyperparameter, Combination>>,
) -> Result<Combination, String> {
    let mut of = BTreeMap::new();
    for (name, raw) in raw {
        let hyperparameter = hyperparameter(name)?;
        let domain = domains.get(&hyperparameter).ok_or_else(|| {
            let named = domains.keys().map(|named| named.name());
            format!("{name} is not in [space], so nothing can depend on it; {}", hint(name, named))
        })?;
        if domain.count().is_none() {
            return Err(format!(
                "{name} is a range without steps, which has no value to depend on; give it a step"
            ));
        }
        let values = match raw {
            // A list is several values, unless lists are what this one has.
            Toml::Array(values) if !is_one_list(hyperparameter, values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        let values = values.iter().map(|raw| accept(hyperparameter, raw)).collect::<Result<Vec<_>, _>>()?;
        let is_default = |value: &Value| {
            when.is_some_and(|when| when.contains_key(&hyperparameter))
                && *value == hyperparameter.default_value()
        };
        if let Some(never) = values.iter().find(|value| !domain.holds(value) && !is_default(value)) {
            return Err(format!("{name} is never {never} in this space"));
        }
        if values.is_empty() {
            return Err(format!("{name} lists no value to depend on"));
        }
        of.insert(hyperparameter, values);
    }
    Ok(Combination { of })
}

fn is_one_list(hyperparameter: Hyperparameter, values: &[Toml]) -> bool {
    hyperparameter.kind() == Kind::Filters && values.iter().all(Toml::is_integer)
}

/// Nothing may depend on itself, by however many others.
fn refuse_cycles(when: &BTreeMap<Hyperparameter, Combination>) -> Result<(), Complaint> {
    for &start in when.keys() {
        let (mut open, mut seen) = (vec![start], BTreeSet::new());
        while let Some(name) = open.pop() {
            for &other in when.get(&name).iter().flat_map(|condition| condition.of.keys()) {
                if other == start {
                    let (start, name) = (start.name(), name.name());
                    let message = format!("{start} depends on itself, through the condition of {name}");
                    return Err((format!("space.{start}"), message));
                }
                if seen.insert(other) {
                    open.push(other);
                }
            }
        }
    }
    Ok(())
}
