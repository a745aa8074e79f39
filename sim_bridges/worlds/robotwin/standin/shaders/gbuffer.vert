#version 450
// Where a vertex is in the picture, and which way its surface faces in the world. Blocks of data and their names are
// SAPIEN's: it fills them, and wants each of them declared.

layout(set = 0, binding = 0) uniform CameraBuffer {
  mat4 viewMatrix;
  mat4 projectionMatrix;
  mat4 viewMatrixInverse;
  mat4 projectionMatrixInverse;
  float width;
  float height;
} cameraBuffer;

layout(set = 1, binding = 0) uniform ObjectTransformBuffer {
  mat4 modelMatrix;
} objectTransformBuffer;

layout(set = 1, binding = 1) uniform ObjectDataBuffer {
  uvec4 segmentation;
  float transparency;
  int shadeFlat;
} objectDataBuffer;

layout(location = 0) in vec3 position;
layout(location = 1) in vec3 normal;
layout(location = 2) in vec2 uv;
layout(location = 3) in vec3 tangent;
layout(location = 4) in vec3 bitangent;

layout(location = 0) out vec3 worldNormal;

void main() {
  // Lengths may differ by axis, so that normals take the inverse.
  worldNormal = transpose(inverse(mat3(objectTransformBuffer.modelMatrix))) * normal;
  gl_Position = cameraBuffer.projectionMatrix * cameraBuffer.viewMatrix
              * objectTransformBuffer.modelMatrix * vec4(position, 1.0);
}
