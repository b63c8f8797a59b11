"""What a program needs on a device, present or absent: memory, and how many rows or tokens fit."""
