"""The text encoder of a bundle: sentences or token ids in, the features of the input ``text`` out."""
