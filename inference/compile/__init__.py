"""Loss and gradients as captured programs of tensor operations."""
