"""What is wrong with a training run, in plain words: from summaries to findings. Knows no tensor."""
