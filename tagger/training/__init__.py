"""Train on a user's labels: probe, fine-tuning, nearest neighbours, small networks from scratch, tuning."""
