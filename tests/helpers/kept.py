"""What a model's forward pass keeps for its backward pass."""

import torch


def kept_bytes(model, sequence_BL) -> int:
    """Of what autograd keeps of one pass, weights aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.base_model(input_ids=sequence_BL, use_cache=False)
    del output
    return sum(size for place, size in kept.items() if place not in own)
