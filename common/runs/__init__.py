"""What every programme needs around its network, as a library that is called and never calls back."""
