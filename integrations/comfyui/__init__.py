"""ComfyUI nodes that draw by schedules of Secateur."""

from .nodes import SecateurInfo, SecateurSchedule

NODE_CLASS_MAPPINGS = {"SecateurSchedule": SecateurSchedule, "SecateurInfo": SecateurInfo}
NODE_DISPLAY_NAME_MAPPINGS = {"SecateurSchedule": "Secateur schedule", "SecateurInfo": "Secateur info"}
