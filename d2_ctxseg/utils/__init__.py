"""What all other packages use: errors, files, image paths, the runtime."""
