"""What a ComfyUI server says and is told: the parts of the engine `comfyui`."""
