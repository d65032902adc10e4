"""Games made with Unity ML-Agents, as vectorized environments."""
