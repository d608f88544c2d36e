"""Rural living environment (农村人居环境), drinking-water sources and the ecology of farmland and villages.
The ministry sets standards and watches; a county accepts, assigns, verifies and assesses; townships and
villages act on site; stations report by themselves. One file for each area of the guide (H-1 to H-24), named
as the ministry names it; `service.py` lists them."""
