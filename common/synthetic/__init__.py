"""Drawing of the synthetic people: body (kinematic tree), shapes (shaded tubes), look (clothes, skin, faces), figure,
scene (background, clutter, light), compose (a picture with its truth), and a writer for every official file layout.
"""

VERSION = 5  # raise when a picture or a label changes for the same arguments
