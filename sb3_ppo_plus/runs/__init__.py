"""Everything about one training run: its configuration, its folder, its environments, its evaluation and its film."""
