//! How good searches are, and how long they think: the distance from the best point of functions whose best is known, after
//! 25, 50 and 100 trials, one at a time and with eight under way, and the time of a proposal, for one objective and for three.
//!
//! ```text
//! cargo bench -p coordinator --bench search
//! cargo bench -p coordinator --bench search -- --seeds 20 --format json
//! cargo bench -p coordinator --bench search -- --only times
//! cargo bench -p coordinator --bench search -- --method bayes
//! ```
//!
//! `benches/optuna_search.py` asks Optuna's samplers the same of the same functions; `benches/search.py` runs both.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that cannot go on ends")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::{collections::BTreeMap, env, f64::consts::PI, thread, time::Instant};

use coordinator::search::{Costs, Past, Question, Standing, propose};
use earshot_common::sweep::{
    Combination, Domain, Hyperparameter, Point, Search, Space, Value,
    domain::{Interval, Spacing},
};

/// Hyperparameters that stand for the arguments of a function.
const ARGUMENTS: [Hyperparameter; 6] = [
    Hyperparameter::LearningRate,
    Hyperparameter::WeightDecay,
    Hyperparameter::LabelSmoothing,
    Hyperparameter::Dropout,
    Hyperparameter::Roll,
    Hyperparameter::MixupAlpha,
];
/// Trials after which a search is looked at.
const MARKS: [usize; 3] = [25, 50, 100];
/// Trials under way at a time.
const WIDTHS: [usize; 2] = [1, 8];
/// Histories at which the time of a proposal is taken.
const TIMED: [usize; 3] = [100, 500, 10_000];
/// Longer histories than these are not for Bayesian optimisation.
const BAYES_MAX: usize = 500;

/// A function to be made small.
struct Function {
    name: &'static str,
    space: Space,
    value: fn(&Point) -> f64,
    least: f64,
    /// Standard deviation of what is added to what the search sees.
    noise: f64,
}

fn float(point: &Point, argument: Hyperparameter) -> f64 {
    match point.get(argument) {
        Value::Float(number) => number,
        Value::Int(number) => number as f64,
        _ => f64::NAN,
    }
}

fn arguments<const N: usize>(point: &Point) -> [f64; N] {
    std::array::from_fn(|index| float(point, ARGUMENTS[index]))
}

fn branin(point: &Point) -> f64 {
    let [x, y] = arguments(point);
    let bowl = y - 5.1 / (4.0 * PI * PI) * x * x + 5.0 / PI * x - 6.0;
    bowl * bowl + 10.0 * (1.0 - 1.0 / (8.0 * PI)) * x.cos() + 10.0
}

fn hartmann_6(point: &Point) -> f64 {
    const A: [[f64; 6]; 4] = [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ];
    const P: [[f64; 6]; 4] = [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ];
    let x: [f64; 6] = arguments(point);
    let hill = |row: usize| (0..6).map(|i| A[row][i] * (x[i] - P[row][i]).powi(2)).sum::<f64>();
    -[1.0, 1.2, 3.0, 3.2].iter().enumerate().map(|(row, height)| height * (-hill(row)).exp()).sum::<f64>()
}

fn ackley_5(point: &Point) -> f64 {
    let x: [f64; 5] = arguments(point);
    let square = x.iter().map(|x| x * x).sum::<f64>() / 5.0;
    let wave = x.iter().map(|x| (2.0 * PI * x).cos()).sum::<f64>() / 5.0;
    -20.0 * (-0.2 * square.sqrt()).exp() - wave.exp() + 20.0 + 1.0_f64.exp()
}

fn levy_4(point: &Point) -> f64 {
    let w: [f64; 4] = arguments(point).map(|x: f64| 1.0 + (x - 1.0) / 4.0);
    let inner = w[..3].iter().map(|w| (w - 1.0).powi(2) * (1.0 + 10.0 * (PI * w + 1.0).sin().powi(2)));
    let last = (w[3] - 1.0).powi(2) * (1.0 + (2.0 * PI * w[3]).sin().powi(2));
    (PI * w[0]).sin().powi(2) + inner.sum::<f64>() + last
}

/// Three ways, the second with a logarithmic number of its own, the third with a whole one.
fn mixed(point: &Point) -> f64 {
    let x = float(point, Hyperparameter::Dropout);
    let own = match point.get(Hyperparameter::LrScheduler) {
        Value::Text(word) if word == "cosine" => {
            0.1 * (float(point, Hyperparameter::LearningRate).log10() + 3.0).powi(2)
        }
        Value::Text(word) if word == "one_cycle" => {
            0.2 + ((float(point, Hyperparameter::FcUnits) - 40.0) / 64.0).powi(2)
        }
        _ => 0.5,
    };
    (x - 0.3).powi(2) + own
}

fn mixed_space() -> Space {
    let word = |word: &str| Value::Text(word.to_owned());
    let is =
        |value: &str| Combination { of: BTreeMap::from([(Hyperparameter::LrScheduler, vec![word(value)])]) };
    let domains = BTreeMap::from([
        (Hyperparameter::LrScheduler, Domain::Choice(["constant", "cosine", "one_cycle"].map(word).to_vec())),
        (Hyperparameter::Dropout, Domain::Float(Interval { low: 0.0, high: 1.0, spacing: Spacing::Linear })),
        (
            Hyperparameter::LearningRate,
            Domain::Float(Interval { low: 1e-5, high: 1e-1, spacing: Spacing::Log }),
        ),
        (Hyperparameter::FcUnits, Domain::Int(Interval { low: 1, high: 64, spacing: Spacing::Linear })),
    ]);
    let when = [(Hyperparameter::LearningRate, is("cosine")), (Hyperparameter::FcUnits, is("one_cycle"))];
    Space::new(domains).with(BTreeMap::from(when), Vec::new())
}

fn cube(ends: &[(f64, f64)]) -> Space {
    let domain = |&(low, high): &(f64, f64)| Domain::Float(Interval { low, high, spacing: Spacing::Linear });
    Space::new(ARGUMENTS.into_iter().zip(ends.iter().map(domain)).collect())
}

fn functions() -> Vec<Function> {
    const BRANIN: [(f64, f64); 2] = [(-5.0, 10.0), (0.0, 15.0)];
    let function = |name, space, value, least, noise| Function { name, space, value, least, noise };
    vec![
        function("branin", cube(&BRANIN), branin, 0.397_887, 0.0),
        function("hartmann_6", cube(&[(0.0, 1.0); 6]), hartmann_6, -3.322_37, 0.0),
        function("ackley_5", cube(&[(-32.768, 32.768); 5]), ackley_5, 0.0, 0.0),
        function("levy_4", cube(&[(-10.0, 10.0); 4]), levy_4, 0.0, 0.0),
        function("mixed", mixed_space(), mixed, 0.0, 0.0),
        function("noisy_branin", cube(&BRANIN), branin, 0.397_887, 2.0),
    ]
}

fn methods() -> [(&'static str, Search); 4] {
    [
        ("random", Search::Random),
        ("sobol", Search::Sobol),
        ("tpe", Search::Tpe { startup: 10, candidates: 24 }),
        ("bayes", Search::Bayes { startup: 10, rungs: false }),
    ]
}

/// A number of the standard normal distribution for a trial of a seed: the sum of twelve even ones, less six.
fn noise(seed: u64, trial: u64) -> f64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ trial.wrapping_mul(0xd1b5_4a32_d192_ed03);
    let mut even = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..12).map(|_| even()).sum::<f64>() - 6.0
}

/// How far the point that looked best is from the least value, noise left out, at each mark. `width` trials are under way at a
/// time, and the oldest ends first.
fn regrets(function: &Function, search: Search, seed: u64, width: usize) -> Vec<f64> {
    let trials = MARKS[MARKS.len() - 1];
    let mut seen: Vec<(Point, f64)> = Vec::new();
    let mut found = Vec::new();
    for ended in 0..trials {
        while seen.len() < trials.min(ended + width) {
            let standing =
                |index, score| if index < ended { Standing::Completed(score) } else { Standing::Pending };
            let past = seen.iter().enumerate();
            let past = past.map(|(index, (point, score))| Past {
                point,
                standing: standing(index, *score),
                costs: Costs::default(),
            });
            let history: Vec<Past<'_>> = past.collect();
            let point = propose(&Question::plain(search, &function.space, seed, &history)).unwrap().point;
            let score = -(function.value)(&point) + function.noise * noise(seed, seen.len() as u64);
            seen.push((point, score));
        }
        if MARKS.contains(&(ended + 1)) {
            let best = seen[..=ended].iter().max_by(|one, other| one.1.total_cmp(&other.1)).unwrap();
            found.push((function.value)(&best.0) - function.least);
        }
    }
    found
}

/// Of every seed, on as many threads as there are cores.
fn over_seeds(function: &Function, search: Search, seeds: u64, width: usize) -> Vec<Vec<f64>> {
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let part = |first| {
        (first..seeds).step_by(threads as usize).map(|seed| (seed, regrets(function, search, seed, width)))
    };
    let mut found: Vec<(u64, Vec<f64>)> = thread::scope(|scope| {
        let parts: Vec<_> =
            (0..threads).map(|first| scope.spawn(move || part(first).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    found.sort_by_key(|(seed, _)| *seed);
    found.into_iter().map(|(_, regrets)| regrets).collect()
}

/// Two made-up costs.
fn costs(point: &Point) -> Costs {
    let [one, other]: [f64; 2] = arguments(point);
    [(3.0 * one).exp(), (2.0 * other - one).exp()]
}

/// Milliseconds of a proposal after so many trials, the median of five; with two costs that are to be small, too, or without.
fn thinking_ms(function: &Function, search: Search, trials: usize, has_costs: bool) -> f64 {
    let draw = |seed| Some(propose(&Question::plain(Search::Random, &function.space, seed, &[]))?.point);
    let points: Vec<Point> = (0..trials as u64).filter_map(draw).collect();
    let past = points.iter().map(|point| Past {
        point,
        standing: Standing::Completed(-(function.value)(point)),
        costs: costs(point),
    });
    let history: Vec<Past<'_>> = past.collect();
    median((0..5).map(|seed| {
        let plain = Question::plain(search, &function.space, seed, &history);
        let known = |point: &Point| Some(costs(point));
        let question = if has_costs { Question { has_costs, costs: &known, ..plain } } else { plain };
        let started = Instant::now();
        std::hint::black_box(propose(&question));
        started.elapsed().as_secs_f64() * 1e3
    }))
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn main() {
    let (mut seeds, mut is_json, mut is_timed_only, mut method) = (5, false, false, None);
    let mut given = env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(flag) = given.next() {
        let value = given.next().unwrap_or_default();
        match flag.as_str() {
            "--seeds" => seeds = value.parse().unwrap(),
            "--format" => is_json = value == "json",
            // Regrets take minutes; the times of proposals are had without.
            "--only" => is_timed_only = value == "times",
            "--method" => method = Some(value),
            other => {
                eprintln!("unknown {other}; known: --seeds N --format json --only times --method NAME");
                std::process::exit(2);
            }
        }
    }
    let is_asked = |name: &str| method.as_ref().is_none_or(|method| method == name);
    let mut found = BTreeMap::new();
    for function in functions().into_iter().filter(|_| !is_timed_only) {
        for ((name, search), width) in
            methods().into_iter().flat_map(|method| WIDTHS.map(|width| (method, width)))
        {
            if !is_asked(name) {
                continue;
            }
            let regrets = over_seeds(&function, search, seeds, width);
            if !is_json {
                let medians =
                    (0..MARKS.len()).map(|mark| median(regrets.iter().map(|of_seed| of_seed[mark])));
                println!("{} {name}, {width} at a time: {:.4?}", function.name, medians.collect::<Vec<_>>());
            }
            found.insert(format!("{} {name} {width}", function.name), regrets);
        }
    }
    let mut thinking = BTreeMap::new();
    let hartmann = functions().swap_remove(1);
    let with_costs = methods().into_iter().filter(|(_, search)| search.heeds_results());
    let with_costs = with_costs.map(|(name, search)| (format!("{name}_front"), search, true));
    let plain = methods().into_iter().map(|(name, search)| (name.to_owned(), search, false));
    for (name, search, has_costs) in plain.chain(with_costs).filter(|(name, ..)| is_asked(name)) {
        let is_bayes = matches!(search, Search::Bayes { .. });
        for count in TIMED.into_iter().filter(|&count| !is_bayes || count <= BAYES_MAX) {
            let ms = thinking_ms(&hartmann, search, count, has_costs);
            if !is_json {
                println!("a proposal of {name} after {count} trials: {ms:.2} ms");
            }
            thinking.insert(format!("{name} {count}"), ms);
        }
    }
    if is_json {
        println!("{}", serde_json::json!({ "regrets": found, "thinking_ms": thinking }));
    }
}
