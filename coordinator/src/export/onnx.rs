//! Nodes, tensors and models of the ONNX schema, in the few forms that the graphs need.

use earshot_common::model::Conv2d;
use earshot_proto::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

/// Name of the input, float `(batch, 1, n_mfcc, frames)`.
pub(super) const INPUT: &str = "features";
/// Name of the output, float `(batch, classes)`.
pub(super) const OUTPUT: &str = "logits";
/// Name of the dimension that any number of clips may take.
const BATCH: &str = "batch";

/// IR version 8 and operator set 17 are the newest that ONNX Runtime has read since 1.12 and that tract is tested against;
/// nothing newer is needed.
const IR_VERSION: i64 = 8;
const OPERATOR_SET: i64 = 17;

/// Values of an initialiser.
pub(super) enum Values<'a> {
    Float(&'a [f32]),
    Int8(&'a [i8]),
    Int32(&'a [i32]),
}

/// An initialiser; no dimensions: a scalar.
pub(super) fn tensor(name: impl Into<String>, shape: &[usize], values: &Values<'_>) -> TensorProto {
    let (data_type, raw_data) = match values {
        Values::Float(values) => (DataType::Float, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Values::Int8(values) => (DataType::Int8, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Values::Int32(values) => (DataType::Int32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    };
    TensorProto {
        dims: shape.iter().map(|&extent| extent as i64).collect(),
        data_type: data_type.into(),
        name: name.into(),
        raw_data,
    }
}

/// A node with one output, named after it.
pub(super) fn node(
    op_type: &str,
    inputs: &[&str],
    output: &str,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: output.to_owned(),
        op_type: op_type.to_owned(),
        attribute,
        doc_string: String::new(),
    }
}

/// A whole-number attribute.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: value,
        r#type: AttributeType::Int.into(),
        ..AttributeProto::default()
    }
}

/// An attribute of several whole numbers.
pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ints: values.to_vec(),
        r#type: AttributeType::Ints.into(),
        ..AttributeProto::default()
    }
}

/// A node's attributes of a "same" convolution with a square, odd kernel.
pub(super) fn same_convolution(conv: &Conv2d) -> Vec<AttributeProto> {
    let (kernel, pad) = (i64::from(conv.kernel_size), i64::from(conv.kernel_size / 2));
    let mut attributes =
        vec![ints("kernel_shape", &[kernel; 2]), ints("pads", &[pad; 4]), ints("strides", &[1; 2])];
    if conv.groups > 1 {
        attributes.push(int("group", conv.groups.into()));
    }
    attributes
}

/// A node's attributes of 2×2 pooling with stride 2.
pub(super) fn pooling() -> Vec<AttributeProto> {
    vec![ints("kernel_shape", &[2; 2]), ints("strides", &[2; 2])]
}

/// What a model file says about itself: keys and values of `metadata_props`.
pub(super) type Metadata = Vec<(&'static str, String)>;

/// A whole model from features of `n_mfcc` × `frames` to `classes` logits.
pub(super) fn model(
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    [n_mfcc, frames, classes]: [usize; 3],
    metadata: &Metadata,
) -> ModelProto {
    let graph = GraphProto {
        node: nodes,
        name: "audio_cnn".to_owned(),
        initializer: initializers,
        doc_string: String::new(),
        input: vec![value(INPUT, &[1, n_mfcc, frames])],
        output: vec![value(OUTPUT, &[classes])],
        value_info: Vec::new(),
    };
    ModelProto {
        ir_version: IR_VERSION,
        producer_name: "earshot".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        domain: String::new(),
        model_version: 1,
        doc_string: String::new(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPERATOR_SET }],
        metadata_props: metadata
            .iter()
            .map(|(key, value)| StringStringEntryProto { key: (*key).to_owned(), value: value.clone() })
            .collect(),
    }
}

/// A float value whose first dimension is the batch.
fn value(name: &str, shape: &[usize]) -> ValueInfoProto {
    let batch = dimension::Value::DimParam(BATCH.to_owned());
    let rest = shape.iter().map(|&extent| dimension::Value::DimValue(extent as i64));
    let dim = std::iter::once(batch).chain(rest).map(|value| Dimension { value: Some(value) }).collect();
    let tensor =
        type_proto::Tensor { elem_type: DataType::Float.into(), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)) }),
        doc_string: String::new(),
    }
}
