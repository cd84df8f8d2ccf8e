"""`bench` as `accelerate launch --use_fsdp` starts it on GPUs, on processes of a CPU.

accelerate starts FSDP on devices alone: here it takes gloo's processes for those of a device.
"""

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from bench.cli.app import main


def of_devices(self, cpu=False, sagemaker_dp=False, backend=None):
    return "gloo", DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState._prepare_backend = of_devices
    main()
