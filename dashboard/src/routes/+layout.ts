// One page application: the control plane serves the same file for every path.
export const ssr = false;
