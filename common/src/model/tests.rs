use super::*;

#[test]
fn the_reference_costs_what_pytorch_counts() {
    // sum(p.numel() for p in model.parameters()) of the same model written in PyTorch, 13 × 431 and 50 classes.
    let cost = AudioCnn::reference(13, 431, 50).cost().unwrap();
    assert_eq!(cost.params, 160 + 4_640 + 657_472 + 3_250);
    assert_eq!(cost.macs, 144 * 13 * 431 + 4_608 * 6 * 215 + 657_408 + 3_200);
    assert_eq!(cost.int8_bytes, 144 + 4_608 + 657_408 + 3_200 + 4 * (16 + 32 + 64 + 50));
    assert_eq!(cost.peak_ram_bytes, 17 * 13 * 431);
}

/// Two blocks of 8 and 12 filters on 16 × 40, without a hidden layer, and what `change` makes of them.
fn small(change: impl FnOnce(&mut AudioCnn)) -> AudioCnn {
    let mut model = AudioCnn::reference(16, 40, 5);
    model.blocks = vec![Block::new(8, 3), Block::new(12, 5)];
    model.head.fc_units = None;
    change(&mut model);
    model
}

/// Expects a variant's parameters, MACs, int8 bytes and peak RAM.
fn check(change: impl FnOnce(&mut AudioCnn), [params, macs, int8_bytes, peak_ram_bytes]: [u64; 4]) {
    let model = small(change);
    assert_eq!(model.cost(), Ok(Cost { params, macs, int8_bytes, peak_ram_bytes }), "{model:?}");
}

#[test]
fn every_variant_has_its_cost() {
    // Convolutions: 72 weights at 640 places, 2400 at 160; 12 maps of 4 × 10 to 5 classes: 2400 weights.
    let ordinary = [72 + 8 + 2400 + 12 + 2400 + 5, 72 * 640 + 2400 * 160 + 2400, 4872 + 4 * 25, 9 * 640];
    let [params, macs, int8_bytes, ram] = ordinary;
    check(|_| {}, ordinary);
    // What batch norm leaves when it is folded is the bias it replaced.
    check(|model| model.blocks.iter_mut().for_each(|block| block.batch_norm = true), ordinary);
    check(|model| model.blocks.iter_mut().for_each(|block| block.pooling = Pooling::Average), ordinary);
    // 16² floats, used in every frame.
    check(|model| model.input = Input::Mel, [params, macs + 256 * 40, int8_bytes + 1024, ram]);
    // 2400 weights and 12 biases become 8 kernels of 25 with 8 biases, then 8 × 12 weights with 12.
    check(
        |model| model.blocks[1].convolution = Convolution::DepthwiseSeparable,
        [
            params - 2400 + 200 + 8 + 96,
            macs - (2400 - 200 - 96) * 160,
            int8_bytes - 2400 + 200 + 32 + 96,
            ram,
        ],
    );
    // 60 or 120 weights instead of 2400.
    for (reduction, weights) in [(Reduction::Mean, 60), (Reduction::MeanMax, 120)] {
        let saved = 2400 - weights;
        check(
            |model| model.head.reduction = reduction,
            [params - saved, macs - saved, int8_bytes - saved, ram],
        );
    }
}

#[test]
fn five_blocks_fit_when_there_are_rows_enough() {
    let blocks =
        |n_mfcc| AudioCnn { blocks: vec![Block::new(8, 3); 5], ..AudioCnn::reference(n_mfcc, 431, 10) };
    assert!(blocks(32).cost().is_ok());
    assert_eq!(blocks(31).cost(), Err(ModelError::PooledAway { block: 5, rows: 1, columns: 26 }));
}

#[test]
fn blocks_that_pool_everything_away_are_refused() {
    let mut model = AudioCnn::reference(13, 431, 10);
    model.blocks = vec![Block::new(8, 3); 4];
    assert_eq!(model.cost(), Err(ModelError::PooledAway { block: 4, rows: 1, columns: 53 }));
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let reference = AudioCnn::reference(13, 431, 10);
    let head = |dropout, fc_units| Head { dropout, fc_units, ..reference.head };
    let blocks = |block| vec![block; 2];
    let wrong = [
        ("dropout", AudioCnn { head: head(1.0, None), ..reference.clone() }),
        ("dropout", AudioCnn { head: head(f64::NAN, None), ..reference.clone() }),
        ("fc_units", AudioCnn { head: head(0.0, Some(0)), ..reference.clone() }),
        ("kernel_size", AudioCnn { blocks: blocks(Block::new(8, 4)), ..reference.clone() }),
        ("filters", AudioCnn { blocks: blocks(Block::new(0, 3)), ..reference.clone() }),
        ("n_mfcc", AudioCnn { n_mfcc: 65, ..reference.clone() }),
        ("classes", AudioCnn { classes: 1, ..reference.clone() }),
    ];
    for (name, model) in wrong {
        let error = model.cost().unwrap_err();
        assert!(matches!(&error, ModelError::Range { name: found, .. } if *found == name), "{error}");
    }
}

#[test]
fn a_spec_from_before_there_were_variants_is_the_reference() {
    let json = r#"{"n_mfcc": 13, "frames": 431, "classes": 10, "head": {"dropout": 0.3, "fc_units": 64},
        "blocks": [{"filters": 16, "kernel_size": 3}, {"filters": 32, "kernel_size": 3}]}"#;
    assert_eq!(serde_json::from_str::<AudioCnn>(json).unwrap(), AudioCnn::reference(13, 431, 10));
}
