"""Facts of the paper and of the weights that its authors publish (arXiv 2311.05032)."""

# In the channel order of the published file, where background comes after them.
STRUCTURES = (
    "aorta",
    "bladder",
    "duodenum",
    "gallbladder",
    "heart",
    "inferior_vena_cava",
    "left_adrenal_gland",
    "left_kidney",
    "left_lung",
    "left_psoas_major",
    "liver",
    "pancreas",
    "portal_vein_and_splenic_vein",
    "right_adrenal_gland",
    "right_kidney",
    "right_lung",
    "right_psoas_major",
    "spinal_cord",
    "spleen",
    "sternum",
    "stomach",
    "trachea",
)
# Hounsfield units to which the input of the published weights was clipped; it was not scaled.
WINDOW = (-500.0, 400.0)
# Voxels (Z, Y, X) of the image patches; their labels are 44 along each axis.
PATCH_SIZE = (132, 132, 132)
