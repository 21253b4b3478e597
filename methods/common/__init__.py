"""What methods share and no backbone owns."""
