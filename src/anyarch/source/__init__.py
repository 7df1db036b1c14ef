"""Where vertices without inputs come from: images, local directories, uploads and URLs."""
