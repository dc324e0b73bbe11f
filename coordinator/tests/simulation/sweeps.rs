//! Sweeps to simulate, parsed once: small grids with and without folds, budgets, constraints and a refit, a random search,
//! some whose trials are stopped early, one whose trials race over folds, and some whose best trial is pruned or quantised.

use std::{collections::BTreeMap, path::Path, sync::LazyLock};

use coordinator::state::Dataset;
use earshot_common::{
    ids::{BlobId, FoldId},
    sweep::Sweep,
};

const SMALL: [&str; 13] = [
    "[split]\nkind = \"folds\"\nvalidation = [1]\n[space]\ndropout = { choice = [0.1, 0.2, 0.3, 0.4, 0.5] }\n\
     [schedule]\nepochs = 3\n",
    "[split]\nkind = \"folds\"\nvalidation = [1, 2, 3]\n[space]\nfilters = { choice = [[4, 8], [8, 16]] }\n\
     kernel_size = { choice = [3, 5] }\n[schedule]\nepochs = 2\nrefit = true\n[budget]\nattempts = 2\n",
    "[split]\nkind = \"folds\"\nvalidation = [2, 4]\n[space]\nfilters = { choice = [[4, 8], [8, 16], [16, 32]] }\n\
     dropout = { choice = [0.1, 0.2] }\n[schedule]\nepochs = 4\n[constraints]\nmax_params = 12000\n",
    "[split]\nkind = \"folds\"\nvalidation = [1]\n[space]\nbatch_size = { choice = [8, 16, 32, 64] }\n\
     dropout = { choice = [0.1, 0.2, 0.3] }\n[schedule]\nepochs = 1\n[budget]\ntrials = 7\nattempts = 4\n",
    "[split]\nkind = \"folds\"\nvalidation = [1, 2]\n[search]\nmethod = \"random\"\n[space]\n\
     dropout = { float = [0.1, 0.5] }\noptimizer = { choice = [\"adam\", \"adamw\"] }\n\
     weight_decay = { float = [1e-4, 1e-2], log = true, when = { optimizer = \"adamw\" } }\n[schedule]\nepochs = 2\n\
     [budget]\ntrials = 6\n",
    "[split]\nkind = \"folds\"\nvalidation = [1]\n[space]\nbatch_size = { choice = [8, 16, 32, 64] }\n\
     dropout = { choice = [0.1, 0.2, 0.3] }\n[schedule]\nepochs = 4\nrefit = true\n\
     [stop]\nmethod = \"asha\"\nreduction = 2\n",
    "[split]\nkind = \"folds\"\nvalidation = [1, 2]\n[search]\nmethod = \"random\"\n[space]\n\
     dropout = { float = [0.1, 0.5] }\n[schedule]\nepochs = 5\n[stop]\nmethod = \"hyperband\"\nreduction = 2\n\
     [budget]\ntrials = 8\n",
    "[split]\nkind = \"folds\"\nvalidation = [1, 3]\n[space]\nbatch_size = { choice = [8, 16, 32] }\n\
     dropout = { choice = [0.1, 0.2, 0.3] }\n[schedule]\nepochs = 3\n\
     [stop]\nmethod = \"median\"\nstartup = 2\n",
    "[split]\nkind = \"folds\"\nvalidation = [1, 2, 3]\n[space]\nbatch_size = { choice = [8, 16, 32] }\n\
     dropout = { choice = [0.1, 0.2, 0.3] }\n[schedule]\nepochs = 2\nrefit = true\n\
     [stop]\nmethod = \"race\"\nstartup = 3\nconfidence = 0.8\n",
    "[split]\nkind = \"folds\"\nvalidation = [1, 3]\n[space]\nfilters = { choice = [[4, 8], [8, 16]] }\n\
     [schedule]\nepochs = 2\n[prune]\nimportance = \"magnitude\"\nratio = 0.5\nsteps = 3\nepochs = 3\n",
    "[split]\nkind = \"folds\"\nvalidation = [2]\n[space]\ndropout = { choice = [0.1, 0.2, 0.3] }\n\
     [schedule]\nepochs = 3\nrefit = true\n[stop]\nmethod = \"asha\"\nreduction = 2\n[budget]\nattempts = 2\n\
     [prune]\nimportance = \"taylor\"\nmacs = 1000\nsteps = 2\nepochs = 2\n\
     [quantise]\naware = { epochs = 3, learning_rate = 1e-4 }\n[export]\nmax_drop = 0.3\n",
    "[split]\nkind = \"folds\"\nvalidation = [1, 2]\n[space]\ndropout = { choice = [0.1, 0.2] }\n[schedule]\nepochs = 2\n\
     [quantise]\naware = { epochs = 2, learning_rate = 1e-3, always = true }\n[budget]\nattempts = 2\n",
    "[split]\nkind = \"folds\"\nvalidation = [1, 3]\n[space]\nbatch_size = { choice = [8, 16, 32] }\n\
     dropout = { choice = [0.1, 0.2] }\n[schedule]\nepochs = 4\n[objective]\nmetric = \"int8_accuracy\"\n\
     [stop]\nmethod = \"asha\"\nreduction = 2\n",
];

/// Kinds of small sweeps.
pub(crate) const KINDS: u64 = SMALL.len() as u64;

const LARGE: &str = "[split]\nkind = \"folds\"\nvalidation = [1, 2]\n[space]\n\
     dropout = { choice = [0.1, 0.2, 0.3, 0.4, 0.5] }\nbatch_size = { choice = [8, 16, 32, 64] }\n\
     learning_rate = { choice = [1e-2, 1e-3, 1e-4] }\n[schedule]\nepochs = 3\n";

static PARSED: LazyLock<Vec<Sweep>> = LazyLock::new(|| {
    let texts = SMALL.into_iter().chain([LARGE]);
    texts
        .map(|text| Sweep::parse(&format!("name = \"t\"\n{text}"), Path::new("t.toml"), &[]).unwrap())
        .collect()
});

/// The sweep of that kind, under a name of its own.
pub(crate) fn sweep(kind: usize, name: String) -> Sweep {
    Sweep { name, ..PARSED[kind % SMALL.len()].clone() }
}

/// One that keeps hundreds of workers busy.
pub(crate) fn large_sweep(name: String) -> Sweep {
    Sweep { name, ..PARSED[SMALL.len()].clone() }
}

pub(crate) fn dataset(sweep: &Sweep) -> Dataset {
    let refit = Some(FoldId::REFIT).filter(|_| sweep.schedule.refit);
    let folds = sweep.split.folds().into_iter().map(FoldId).chain(refit);
    Dataset {
        labels: vec!["dog".into(), "rain".into()],
        frames: 40,
        shards: vec![BlobId::from([1; 32])],
        views: vec![],
        splits: folds.map(|fold| (fold, BlobId::from([fold.0 as u8; 32]))).collect::<BTreeMap<_, _>>(),
        manifest: BlobId::from([9; 32]),
    }
}
