"""Networks: torch, torchvision and safetensors only, so that they run on a bare GPU machine."""
