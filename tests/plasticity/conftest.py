import pytest
import torch
from hypothesis import settings
from torch import nn

settings.register_profile("suite", derandomize=True, max_examples=15, deadline=None, database=None)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return torch.device(request.param)


class Calls(nn.Module):
    """A network with a forward pass of its own."""

    def __init__(self, forward, *modules):
        super().__init__()
        self.m, self.call = nn.ModuleList(modules), forward

    def forward(self, x):
        return self.call(self, x)
