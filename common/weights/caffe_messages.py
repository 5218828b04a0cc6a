"""Caffe's protobuf messages, from a table: nets, solvers, blobs, data records, states (numbers of Caffe 1.0).

The classes are made through protobuf's runtime, in a descriptor pool of our own: the default pool would clash with
another `caffe.proto` in the same process (pycaffe, Chainer). Fields that the table lacks survive reading and writing of
binary files. `label_num` of DataParameter is an addition of the K2HPD DeepPose project; FluidTensor is PaddlePaddle
1.x's.
"""

from __future__ import annotations

import functools
from typing import Any

# MESSAGE: field number type [default], ...; * repeated, ** repeated and packed; types are protobuf's, or of these
# tables
_MESSAGES = """
BlobShape: dim 1 int64**
BlobProto: num 1 int32, channels 2 int32, height 3 int32, width 4 int32, data 5 float**, diff 6 float**, shape 7
  BlobShape, double_data 8 double**, double_diff 9 double**
BlobProtoVector: blobs 1 BlobProto*
Datum: channels 1 int32, height 2 int32, width 3 int32, data 4 bytes, label 5 int32, float_data 6 float*, encoded 7
  bool false
FillerParameter: type 1 string constant, value 2 float 0, min 3 float 0, max 4 float 1, mean 5 float 0, std 6 float 1,
  sparse 7 int32 -1, variance_norm 8 VarianceNorm FAN_IN
NetParameter: name 1 string, layers 2 V1LayerParameter*, input 3 string*, input_dim 4 int32*, force_backward 5 bool
  false, state 6 NetState, debug_info 7 bool false, input_shape 8 BlobShape*, layer 100 LayerParameter*
SolverParameter: train_net 1 string, test_net 2 string*, test_iter 3 int32*, test_interval 4 int32 0, base_lr 5 float,
  display 6 int32, max_iter 7 int32, lr_policy 8 string, gamma 9 float, power 10 float, momentum 11 float,
  weight_decay 12 float, stepsize 13 int32, snapshot 14 int32 0, snapshot_prefix 15 string, snapshot_diff 16 bool
  false, solver_mode 17 SolverMode GPU, device_id 18 int32 0, test_compute_loss 19 bool false, random_seed 20 int64
  -1, train_net_param 21 NetParameter, test_net_param 22 NetParameter*, debug_info 23 bool false, net 24 string,
  net_param 25 NetParameter, train_state 26 NetState, test_state 27 NetState*, snapshot_after_train 28 bool true,
  regularization_type 29 string L2, solver_type 30 SolverType SGD, delta 31 float 1e-8, test_initialization 32 bool
  true, average_loss 33 int32 1, stepvalue 34 int32*, clip_gradients 35 float -1, iter_size 36 int32 1,
  snapshot_format 37 SnapshotFormat BINARYPROTO, rms_decay 38 float 0.99, momentum2 39 float 0.999, type 40 string
  SGD, layer_wise_reduce 41 bool true, weights 42 string*
SolverState: iter 1 int32, learned_net 2 string, history 3 BlobProto*, current_step 4 int32 0
NetState: phase 1 Phase TEST, level 2 int32 0, stage 3 string*
NetStateRule: phase 1 Phase, min_level 2 int32, max_level 3 int32, stage 4 string*, not_stage 5 string*
ParamSpec: name 1 string, share_mode 2 ShareMode STRICT, lr_mult 3 float 1, decay_mult 4 float 1
LayerParameter: name 1 string, type 2 string, bottom 3 string*, top 4 string*, loss_weight 5 float*, param 6
  ParamSpec*, blobs 7 BlobProto*, include 8 NetStateRule*, exclude 9 NetStateRule*, phase 10 Phase, propagate_down 11
  bool*, transform_param 100 TransformationParameter, loss_param 101 LossParameter, accuracy_param 102
  AccuracyParameter, argmax_param 103 ArgMaxParameter, concat_param 104 ConcatParameter, convolution_param 106
  ConvolutionParameter, data_param 107 DataParameter, dropout_param 108 DropoutParameter, dummy_data_param 109 DummyDataParameter, eltwise_param 110
  EltwiseParameter, exp_param 111 ExpParameter, hdf5_data_param 112 HDF5DataParameter, image_data_param 115
  ImageDataParameter, inner_product_param 117 InnerProductParameter, lrn_param 118 LRNParameter, memory_data_param 119
  MemoryDataParameter, mvn_param 120 MVNParameter, pooling_param 121 PoolingParameter, power_param 122 PowerParameter, relu_param 123
  ReLUParameter, sigmoid_param 124 EngineParameter, softmax_param 125 SoftmaxParameter, slice_param 126
  SliceParameter, tanh_param 127 EngineParameter, threshold_param 128
  ThresholdParameter, prelu_param 131 PReLUParameter, reshape_param 133 ReshapeParameter,
  log_param 134 ExpParameter, flatten_param 135 FlattenParameter, reduction_param 136 ReductionParameter, tile_param
  138 TileParameter, batch_norm_param 139 BatchNormParameter, elu_param 140 ELUParameter, bias_param
  141 BiasParameter, scale_param 142 ScaleParameter, input_param 143 InputParameter, crop_param 144
  CropParameter, permute_param 202 PermuteParameter, norm_param 206 NormalizeParameter
TransformationParameter: scale 1 float 1, mirror 2 bool false, crop_size 3 uint32 0, mean_file 4 string, mean_value 5
  float*, force_color 6 bool false, force_gray 7 bool false
LossParameter: ignore_label 1 int32, normalize 2 bool, normalization 3 Normalization VALID
ArgMaxParameter: out_max_val 1 bool false, top_k 2 uint32 1, axis 3 int32
AccuracyParameter: top_k 1 uint32 1, axis 2 int32 1, ignore_label 3 int32
ConcatParameter: concat_dim 1 uint32 1, axis 2 int32 1
ConvolutionParameter: num_output 1 uint32, bias_term 2 bool true, pad 3 uint32*, kernel_size 4 uint32*, group 5 uint32
  1, stride 6 uint32*, weight_filler 7 FillerParameter, bias_filler 8 FillerParameter, pad_h 9 uint32 0, pad_w 10
  uint32 0, kernel_h 11 uint32, kernel_w 12 uint32, stride_h 13 uint32, stride_w 14 uint32, engine 15 Engine DEFAULT,
  axis 16 int32 1, force_nd_im2col 17 bool false, dilation 18 uint32*
DataParameter: source 1 string, scale 2 float 1, mean_file 3 string, batch_size 4 uint32, crop_size 5 uint32 0, mirror
  6 bool false, rand_skip 7 uint32 0, backend 8 Backend LEVELDB, force_encoded_color 9 bool false, prefetch 10 uint32
  4, label_num 11 uint32
CropParameter: axis 1 int32 2, offset 2 uint32*
DropoutParameter: dropout_ratio 1 float 0.5
DummyDataParameter: data_filler 1 FillerParameter*, num 2 uint32*, channels 3 uint32*, height 4 uint32*, width 5
  uint32*, shape 6 BlobShape*
EltwiseParameter: operation 1 EltwiseOp SUM, coeff 2 float*, stable_prod_grad 3 bool true
ExpParameter: base 1 float -1, scale 2 float 1, shift 3 float 0
HDF5DataParameter: source 1 string, batch_size 2 uint32, shuffle 3 bool false
ImageDataParameter: source 1 string, scale 2 float 1, mean_file 3 string, batch_size 4 uint32 1, crop_size 5 uint32 0,
  mirror 6 bool false, rand_skip 7 uint32 0, shuffle 8 bool false, new_height 9 uint32 0, new_width 10 uint32 0,
  is_color 11 bool true, root_folder 12 string
InnerProductParameter: num_output 1 uint32, bias_term 2 bool true, weight_filler 3 FillerParameter, bias_filler 4
  FillerParameter, axis 5 int32 1, transpose 6 bool false
LRNParameter: local_size 1 uint32 5, alpha 2 float 1, beta 3 float 0.75, norm_region 4 NormRegion ACROSS_CHANNELS, k 5
  float 1, engine 6 Engine DEFAULT
MemoryDataParameter: batch_size 1 uint32, channels 2 uint32, height 3 uint32, width 4 uint32
MVNParameter: normalize_variance 1 bool true, across_channels 2 bool false, eps 3 float 1e-9
NormalizeParameter: across_spatial 1 bool true, scale_filler 2 FillerParameter, channel_shared 3 bool true, eps 4 float
  1e-10
PermuteParameter: order 1 uint32*
PoolingParameter: pool 1 PoolMethod MAX, kernel_size 2 uint32, stride 3 uint32 1, pad 4 uint32 0, kernel_h 5 uint32,
  kernel_w 6 uint32, stride_h 7 uint32, stride_w 8 uint32, pad_h 9 uint32 0, pad_w 10 uint32 0, engine 11 Engine
  DEFAULT, global_pooling 12 bool false, round_mode 13 RoundMode CEIL, ceil_mode 1013 bool true
PowerParameter: power 1 float 1, scale 2 float 1, shift 3 float 0
ReductionParameter: operation 1 ReductionOp SUM, axis 2 int32 0, coeff 3 float 1
ReLUParameter: negative_slope 1 float 0, engine 2 Engine DEFAULT
EngineParameter: engine 1 Engine DEFAULT
SoftmaxParameter: engine 1 Engine DEFAULT, axis 2 int32 1
SliceParameter: slice_dim 1 uint32 1, slice_point 2 uint32*, axis 3 int32 1
PReLUParameter: filler 1 FillerParameter, channel_shared 2 bool false
ReshapeParameter: shape 1 BlobShape, axis 2 int32 0, num_axes 3 int32 -1
FlattenParameter: axis 1 int32 1, end_axis 2 int32 -1
BatchNormParameter: use_global_stats 1 bool, moving_average_fraction 2 float 0.999, eps 3 float 1e-5
ELUParameter: alpha 1 float 1
BiasParameter: axis 1 int32 1, num_axes 2 int32 1, filler 3 FillerParameter
ScaleParameter: axis 1 int32 1, num_axes 2 int32 1, filler 3 FillerParameter, bias_term 4 bool false, bias_filler 5
  FillerParameter
InputParameter: shape 1 BlobShape*
ThresholdParameter: threshold 1 float 0
TileParameter: axis 1 int32 1, tiles 2 int32
V1LayerParameter: bottom 2 string*, top 3 string*, name 4 string, type 5 LayerType, blobs 6 BlobProto*, blobs_lr 7
  float*, weight_decay 8 float*, concat_param 9 ConcatParameter, convolution_param 10 ConvolutionParameter, data_param
  11 DataParameter, dropout_param 12 DropoutParameter, hdf5_data_param 13 HDF5DataParameter, image_data_param 15
  ImageDataParameter, inner_product_param 17 InnerProductParameter, lrn_param 18
  LRNParameter, pooling_param 19 PoolingParameter, power_param 21 PowerParameter, memory_data_param 22
  MemoryDataParameter, argmax_param 23 ArgMaxParameter, eltwise_param 24 EltwiseParameter, threshold_param 25
  ThresholdParameter, dummy_data_param 26 DummyDataParameter, accuracy_param 27
  AccuracyParameter, relu_param 30 ReLUParameter, slice_param 31 SliceParameter, include 32 NetStateRule*, exclude 33
  NetStateRule*, mvn_param 34 MVNParameter, loss_weight 35 float*, transform_param 36 TransformationParameter, tanh_param 37 EngineParameter,
  sigmoid_param 38 EngineParameter, softmax_param 39 SoftmaxParameter, exp_param 41 ExpParameter, loss_param 42 LossParameter, param 1001 string*
FluidTensor: data_type 1 int32, dims 2 int64*
"""
# ENUM: names of its values, numbered from 0
_ENUMS = """
Phase: TRAIN TEST
VarianceNorm: FAN_IN FAN_OUT AVERAGE
ShareMode: STRICT PERMISSIVE
SolverMode: CPU GPU
SolverType: SGD NESTEROV ADAGRAD RMSPROP ADADELTA ADAM
SnapshotFormat: HDF5 BINARYPROTO
Normalization: FULL VALID BATCH_SIZE NONE
Engine: DEFAULT CAFFE CUDNN
Backend: LEVELDB LMDB
EltwiseOp: PROD SUM MAX
NormRegion: ACROSS_CHANNELS WITHIN_CHANNEL
PoolMethod: MAX AVE STOCHASTIC
RoundMode: CEIL FLOOR
ReductionOp: NONE SUM ASUM SUMSQ MEAN
LayerType: NONE ACCURACY BNLL CONCAT CONVOLUTION DATA DROPOUT EUCLIDEAN_LOSS FLATTEN HDF5_DATA HDF5_OUTPUT IM2COL
  IMAGE_DATA INFOGAIN_LOSS INNER_PRODUCT LRN MULTINOMIAL_LOGISTIC_LOSS POOLING RELU SIGMOID SOFTMAX SOFTMAX_LOSS SPLIT
  TANH WINDOW_DATA ELTWISE POWER SIGMOID_CROSS_ENTROPY_LOSS HINGE_LOSS MEMORY_DATA ARGMAX THRESHOLD DUMMY_DATA SLICE
  MVN ABSVAL SILENCE CONTRASTIVE_LOSS EXP DECONVOLUTION
"""


def _rows(text: str) -> dict[str, str]:
    return dict(line.split(": ") for line in text.strip().replace("\n  ", " ").splitlines())


MESSAGES = {name: [field.split() for field in fields.split(", ")] for name, fields in _rows(_MESSAGES).items()}
ENUMS = {name: values.split() for name, values in _rows(_ENUMS).items()}
_SCALARS = {"double": 1, "float": 2, "int64": 3, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13}


@functools.cache
def messages() -> dict[str, Any]:
    """Message classes by name, of the tables above."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="pose/caffe.proto", package="caffe", syntax="proto2")
    for name, values in ENUMS.items():
        # an enum in a message of its own: sibling values share their scope's names
        enum = file.message_type.add(name=f"{name}Scope").enum_type.add(name=name)
        for number, label in enumerate(values):
            enum.value.add(name=label, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields:
            _add_field(message, *field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in MESSAGES}


def _add_field(message, name: str, number: str, kind: str, default: str | None = None) -> None:
    base = kind.rstrip("*")
    field = message.field.add(name=name, number=int(number), label=3 if kind.endswith("*") else 1)
    if base in MESSAGES:
        field.type, field.type_name = 11, f".caffe.{base}"
    elif base in ENUMS:
        field.type, field.type_name = 14, f".caffe.{base}Scope.{base}"
    else:
        field.type = _SCALARS[base]
    if default is not None:
        field.default_value = default
    if kind.endswith("**"):
        field.options.packed = True
