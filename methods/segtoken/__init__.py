"""InternVL2.5 with a token whose hidden state prompts a mask decoder that looks at the image again."""
