"""Everything about one training run: its configuration, folder, environments and evaluation; its video and window."""
