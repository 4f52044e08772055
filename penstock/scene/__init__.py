"""What a picture is made of: the items of a scene, solid shapes, the bodies of a MuJoCo model."""
