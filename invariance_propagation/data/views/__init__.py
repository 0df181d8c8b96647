"""Makes random views of images, on the device and on the host."""
