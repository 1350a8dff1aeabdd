"""What is drawn, and the only room that writes parameters."""
