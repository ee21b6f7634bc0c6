"""What one training on several processes sends, and how long it takes."""
