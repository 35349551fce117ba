"""A pipeline of transformers around the network, as users of upstream's have one."""

import numpy as np
from PIL import Image
from transformers import Pipeline
from transformers.image_utils import load_image

from utilities import postprocess_image, preprocess_image


class RMBGPipe(Pipeline):
    """What upstream's `MyPipe.py` does, with this project's two functions around the network.

    `return_mask` is of upstream's latest version, `out_name` of its first.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.model.to(self.device)
        self.model.eval()

    def _sanitize_parameters(self, **kwargs):
        before, after = (
            {name: kwargs[name] for name in names if name in kwargs}
            for names in (("model_input_size",), ("return_mask", "out_name"))
        )
        return before, {}, after

    def preprocess(self, photo, model_input_size=(1024, 1024)):
        photo = load_image(photo)
        return {"photo": photo, "image": preprocess_image(np.asarray(photo), model_input_size).to(self.device)}

    def _forward(self, inputs):
        return {"photo": inputs["photo"], "result": self.model(inputs["image"])}

    def postprocess(self, outputs, return_mask=False, out_name=""):
        photo = outputs["photo"]
        mask = Image.fromarray(postprocess_image(outputs["result"][0][0], photo.size[::-1]))
        if return_mask:
            return mask
        cutout = Image.new("RGBA", mask.size)
        cutout.paste(photo, mask=mask)
        if out_name:
            cutout.save(out_name)
        return cutout
